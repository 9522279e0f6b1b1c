//! `compress --for llama.cpp`: a file of at most so many bytes, every matrix in a type of its own.

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
    assert!(told.is_object(), "the file is a model that can be read");
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
