//! `plan` and `compress --for llama.cpp`: a file of at most so many bytes, or bits of a weight, every
//! matrix in a type of its own.

use serde_json::Value;

use crate::support::Sandbox;

const CALIBRATE: &str = "calibrate model --text story.txt --calibration-seq-len 64 \
                         --calibration-windows 8 --gradient-windows 8 -o seen";
const COMPRESS: &str = "compress model --for llama.cpp --calibration seen -o out.gguf";

fn perplexity(sandbox: &Sandbox, model: &str) -> f64 {
    let line = format!("eval {model} --text story.txt --seq-len 64 --windows 8 --json");
    sandbox.json(&line)["perplexity"].as_f64().unwrap()
}

#[test]
fn file_is_never_larger_than_asked_and_a_larger_one_is_expected_to_lose_less() {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    let dense = perplexity(&sandbox, "model");
    let mut losses = vec![f64::INFINITY];
    for size in [140_000u64, 170_000, 230_000, 420_000] {
        let line = format!("{COMPRESS} --max-bytes {size} --json");
        let dry = sandbox.json(&format!("{line} --dry-run"));
        assert!(losses.len() > 1 || !sandbox.path("out.gguf").exists(), "a dry run writes nothing");
        let told = sandbox.json(&line);
        let bytes = sandbox.read("out.gguf").len() as u64;
        assert_eq!((told["bytes"].as_u64(), dry["bytes"].as_u64()), (Some(bytes), Some(bytes)));
        // The largest step is that of the embedding, by half a byte for each of its weights.
        assert!(
            bytes <= size && (size == 420_000 || bytes + 384 * 64 / 2 > size),
            "{bytes} of {size}"
        );
        let loss = told["expected_loss"].as_f64().unwrap();
        assert!(loss >= 0.0 && loss < *losses.last().unwrap(), "{loss} after {losses:?}");
        losses.push(loss);
        let [kl, expected] = [&told, &dry].map(|told| told["measured"]["value"].as_f64().unwrap());
        assert!((kl - expected).abs() < 1e-6 && kl > -1e-6, "{kl} after {expected}");
        // The estimate is of the text that it was made from, and to second order.
        let rise = (perplexity(&sandbox, "out.gguf") / dense).ln();
        assert!(rise.abs() < 3.0 * loss + 0.01, "a rise of {rise} for {loss} at {size}");
    }
}

#[test]
fn chosen_types_are_those_of_the_file_and_of_the_list() {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    let types = "q8_0,q5_1,q4_0";
    let line = format!("{COMPRESS} --max-bytes 170000 --types {types} --save-types types.json");
    sandbox.gives(&line);
    let plan: Value = serde_json::from_slice(&sandbox.read("types.json")).unwrap();
    let matrices = plan["matrices"].as_array().unwrap();
    assert_eq!((plan["format"].as_str(), matrices.len()), (Some("welore-types"), 29));
    let of = |key: &str| matrices.iter().map(|matrix| matrix[key].as_f64().unwrap()).sum::<f64>();
    assert!((of("loss") - plan["expected_loss"].as_f64().unwrap()).abs() < 1e-9);
    assert!(of("bytes") < plan["bytes"].as_f64().unwrap());
    for matrix in matrices {
        assert!(types.split(',').any(|name| matrix["type"] == name), "{matrix}");
    }
    let told = sandbox.json("inspect out.gguf --json");
    let size = sandbox.read("out.gguf").len();
    assert_eq!((&told["bytes"], &told["dtypes"]["U8"]), (&size.into(), &29.into()), "{told}");
    let shown = sandbox.gives("inspect out.gguf").stdout;
    assert!(
        shown.contains("in types of llama.cpp: 29 matrices") && shown.contains("blocks of q"),
        "{shown}"
    );
    let line = "eval out.gguf --text story.txt --seq-len 64 --windows 1 --json";
    assert_eq!(sandbox.json(line)["bytes"], size);
}

#[test]
fn numbers_that_are_too_large_for_all_types_are_named_with_what_holds_them() {
    let sandbox = Sandbox::new();
    let tensor = "model.layers.1.mlp.up_proj.weight";
    sandbox.edit_tensors("model/model.safetensors", |tensors| {
        // 2^30 as bf16: its scale is beyond f16 in all types.
        tensors.get_mut(tensor).unwrap().data[10..12].copy_from_slice(&[0x80, 0x4e]);
    });
    sandbox.gives(&CALIBRATE.replace("windows 8", "windows 4"));
    let message = sandbox.refuses(&format!("{COMPRESS} --bits 5"), tensor);
    assert!(message.contains("row 0, column 5 is 1073741"), "{message}");
    sandbox.gives(&format!("{COMPRESS} --bits 7 --types q5_0,bf16 --no-measure"));
}

#[test]
fn costs_that_were_computed_in_another_type_are_not_taken() {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    let known = |dtype: &str| {
        let line = format!("{COMPRESS} --bits 5 --no-measure --dry-run --dtype {dtype}");
        sandbox.gives(&line);
        sandbox.cached_in("types").len()
    };
    let first = known("f32");
    // Those of the embedding, and the scale of the others, are measured on the model.
    assert_eq!([known("f32"), known("bf16"), known("bf16")], [first, first + 2, first + 2]);
}

#[test]
fn what_is_measured_is_the_divergence_of_the_file() {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    let line = format!("{COMPRESS} --bits 5 --save-types types.json --json");
    let told = sandbox.json(&line);
    let bits = told["bits"].as_f64().unwrap();
    // The smallest matrices have 2048 of the 172032 weights of projections, and no step of more than 8 bits.
    assert!(bits <= 5.0 && bits > 5.0 - 0.25, "{bits}");
    let eval = "eval out.gguf --text story.txt --seq-len 64 --windows 8 --against model --json";
    let kl = sandbox.json(eval)["divergence"]["kl"]["value"].as_f64().unwrap();
    let measured = told["measured"]["value"].as_f64().unwrap();
    assert!((measured / kl - 1.0).abs() < 1e-3, "{measured} for {kl}");
    assert_eq!(sandbox.json_file("types.json")["measured_kl"], measured);
    let without = sandbox.json(&format!("{line} --no-measure"));
    assert_eq!((&without["measured"], &without["bytes"]), (&Value::Null, &told["bytes"]));
    assert!(sandbox.json_file("types.json")["measured_kl"].is_null());
    let message = sandbox.refuses(&format!("{COMPRESS} --bits 3"), "3 bits");
    assert!(message.contains("4.5 to 16"), "{message}");
    sandbox.refuses(&format!("{COMPRESS} --bits 17"), "17 bits");
    sandbox.refuses(&format!("{COMPRESS} --bits 5 --other-calibration"), "--other-calibration");
}

#[test]
fn a_plan_of_types_is_carried_out_as_if_it_were_made_at_once() {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    let plan = "plan model --for llama.cpp --calibration seen --max-bytes 170000 --no-measure";
    let outcome = sandbox.gives(&format!("{plan} -o types.json --tensor-types types.txt"));
    assert!(
        outcome
            .stderr
            .contains("llama-quantize --tensor-type-file types.txt --token-embedding-type")
    );
    let lines = String::from_utf8(sandbox.read("types.txt")).unwrap();
    let choices = sandbox.json_file("types.json")["matrices"].as_array().unwrap().clone();
    assert_eq!(lines.lines().count(), choices.len() - 1);
    for choice in &choices[1..] {
        let (name, dtype) = (choice["tensor"].as_str().unwrap(), choice["type"].as_str().unwrap());
        let layer = name.split('.').nth(2).unwrap();
        let of_layer = lines.lines().filter(|line| line.starts_with(&format!(r"^blk\.{layer}\.")));
        assert!(of_layer.into_iter().any(|line| line.to_lowercase().ends_with(dtype)), "{name}");
    }
    sandbox.gives(&format!("{COMPRESS} --max-bytes 170000"));
    let once = sandbox.read("out.gguf");
    let carried = COMPRESS.replace("--calibration seen", "--plan types.json --no-measure");
    sandbox.gives(&format!("{carried} --calibration seen"));
    assert!(sandbox.read("out.gguf") == once, "the files differ");
    // What was written before may be written again, and nothing else.
    sandbox.gives(&format!("{plan} -o types.json --tensor-types types.txt"));
    sandbox.refuses(&format!("{plan} --tensor-types story.txt"), "story.txt exists and is not");
    sandbox.refuses(&format!("{plan} -o types.txt --tensor-types types.txt"), "types.txt");

    sandbox.refuses(&carried, "made with a calibration");
    sandbox.refuses(&format!("{carried} --calibrate story.txt"), "--calibrate makes another");
    sandbox.gives(&CALIBRATE.replace("windows 8 -o seen", "windows 4 -o other"));
    sandbox.refuses(&format!("{carried} --calibration other"), "another calibration");
    let dry = format!("{carried} --calibration other --other-calibration --dry-run");
    assert!(!sandbox.gives(&dry).stderr.contains("ends in .gguf"));
    let told = sandbox.gives(&dry.replace("out.gguf", "out")).stderr;
    assert!(told.contains("commands read out as a model only if its name ends in .gguf"), "{told}");
    let both = format!("{carried} --calibration seen --other-calibration");
    sandbox.refuses(&both, "--other-calibration");
    sandbox.refuses("compress model --plan types.json -o low", "is a plan of types, not a plan");
    let report = "report --plan types.json -o page.html";
    sandbox.refuses(report, "is a plan of types, not a plan");
    let told = sandbox.run(report).stderr;
    assert!(told.contains("compress MODEL --for llama.cpp --plan types.json -o FILE"), "{told}");
    sandbox.refuses("plan types.json", "types.json is a plan of types, not a model");
    sandbox.refuses("plan types.json --keep-params 0.8", "types.json is a plan of types, not");
    // An edited plan has to keep to its own budget.
    let bits = "plan model --for llama.cpp --calibration seen --bits 5 --no-measure -o bits.json";
    sandbox.gives(bits);
    sandbox.edit_json("bits.json", |plan| plan["matrices"][3]["type"] = "f16".into());
    let edited = carried.replace("types.json", "bits.json");
    sandbox.refuses(&format!("{edited} --calibration seen"), "bits.json: its types have");
    sandbox.edit_json("types.json", |plan| plan["matrices"][3]["digest"] = "other".into());
    sandbox.refuses(&format!("{carried} --calibration seen"), "types.json");
    sandbox.gives("plan model --err 0.5 -o ranks.json");
    let ranks = carried.replace("types.json", "ranks.json");
    sandbox.refuses(&format!("{ranks} --calibration seen"), "not a plan of types");
}

#[test]
fn the_calibration_that_is_made_by_default_is_found_again() {
    let sandbox = Sandbox::new();
    let amount = "--calibration-seq-len 64 --calibration-windows 4 --gradient-windows 2";
    let plan = format!("plan model --for llama.cpp --max-bytes 170000 --no-measure {amount}");
    let first = sandbox.gives(&format!("{plan} -o types.json")).stderr;
    assert!(first.contains("the model first writes a text") && first.contains("kept in the cache"));
    let again = sandbox.gives(&format!("{plan} -o again.json")).stderr;
    assert!(!again.contains("first writes a text") && again.contains("before"), "{again}");
    assert!(sandbox.read("types.json") == sandbox.read("again.json"), "the plans differ");
    // A command that fails does not remove it.
    let too_little =
        plan.replace("windows 4 --gradient-windows 2", "windows 1 --gradient-windows 1");
    sandbox.refuses(&too_little, "only 64 tokens");
    assert!(sandbox.gives(&plan).stderr.contains("before"), "it is gone");
    let compress = format!("compress model --for llama.cpp --plan types.json {amount} -o out.gguf");
    sandbox.gives(&compress);
    sandbox.refuses(&format!("{compress} --self-seed 1"), "made with a calibration");
    sandbox.refuses(&format!("{compress} --no-cache"), "made with a calibration");
}

#[test]
fn what_no_types_can_do_is_refused_before_any_work() {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    let message = sandbox.refuses(&format!("{COMPRESS} --max-bytes 90kB"), "90000 bytes");
    assert!(message.contains("the smallest file of these types has"), "{message}");
    sandbox.refuses(&format!("{COMPRESS} --max-bytes 200kB --types q4_k"), "rows of 64 entries");
    let goal = "compress model --for llama.cpp -o out.gguf --max-bytes 200kB";
    sandbox.gives(
        &CALIBRATE.replace("--gradient-windows 8 -o seen", "--gradient-windows 0 -o inputs"),
    );
    sandbox.refuses(&format!("{goal} --calibration inputs"), "gradients");
    sandbox.gives("compress model --err 0.5 -o low");
    sandbox.refuses(&goal.replace("model", "low"), "not dense");
    sandbox.write("notes", "mine");
    sandbox.refuses(&goal.replace("out.gguf", "notes"), "notes exists and is not a GGUF file");
    for option in ["save-types", "save-calibration"] {
        sandbox.refuses(&format!("{goal} --{option} notes"), "notes exists and is not");
        sandbox.refuses(&format!("{goal} --{option} model/config.json"), "model/config.json");
        sandbox.refuses(&format!("{goal} --{option} out.gguf"), "out.gguf");
    }
    sandbox
        .refuses("compress model --for llama.cpp --keep-params 0.8 -o out.gguf", "--keep-params");
}
