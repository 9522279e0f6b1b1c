//! `compress --for welore`: a directory of at most so many bytes, every matrix in a form of its own.

use safetensors::Dtype;

use crate::support::Sandbox;

const CALIBRATE: &str = "calibrate model --text story.txt --calibration-seq-len 64 \
                         --calibration-windows 8 --gradient-windows 8 -o seen";
const COMPRESS: &str = "compress model --for welore --calibration seen -o low";
const EVAL: &str = "--text story.txt --seq-len 64 --windows 8 --json";

fn divergence(sandbox: &Sandbox, model: &str) -> f64 {
    let line = format!("eval {model} {EVAL} --against model");
    sandbox.json(&line)["divergence"]["kl"]["value"].as_f64().unwrap()
}

#[test]
fn the_directory_is_never_larger_than_asked_and_loses_what_was_measured() {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    let mut losses = vec![f64::INFINITY];
    for size in [115_000u64, 140_000, 220_000] {
        let line = format!("{COMPRESS} --max-bytes {size} --force --json");
        let dry = sandbox.json(&format!("{line} --dry-run"));
        let told = sandbox.json(&line);
        let bytes = told["bytes"].as_u64().unwrap();
        assert!(bytes <= size && bytes + 384 * 64 / 2 > size, "{bytes} of {size}");
        assert_eq!((&dry["bytes"], &dry["forms"]), (&told["bytes"], &told["forms"]));
        let stored: u64 =
            sandbox.tensors("low/model.safetensors").values().map(|t| t.data.len() as u64).sum();
        assert_eq!(stored, bytes);
        let loss = told["expected_loss"].as_f64().unwrap();
        assert!(loss >= 0.0 && loss < *losses.last().unwrap(), "{loss} after {losses:?}");
        losses.push(loss);
        let (measured, kl) = (&told["measured"]["value"], divergence(&sandbox, "low"));
        let measured = measured.as_f64().unwrap();
        assert!((measured / kl - 1.0).abs() < 0.02, "{measured} for {kl}");
        assert!((0.3..3.0).contains(&(loss / kl)), "{loss} expected, {kl} measured");
    }
    let told = sandbox.json("inspect low --json");
    assert_eq!(told["factored"].as_array().unwrap().len(), 29, "{told}");
    sandbox.gives("generate low --prompt Once --max-new-tokens 4");
    // Unpacked it is the same model.
    sandbox.gives("export low --dense -o unpacked");
    let perplexity =
        |model: &str| sandbox.json(&format!("eval {model} {EVAL}"))["perplexity"].as_f64().unwrap();
    let (packed, unpacked) = (perplexity("low"), perplexity("unpacked"));
    assert!((packed / unpacked - 1.0).abs() < 1e-3, "{packed} and {unpacked}");
}

#[test]
fn more_forms_are_never_expected_to_lose_more() {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    let loss = |options: &str| {
        let line = format!("{COMPRESS} --max-bytes 130000 --dry-run --json {options}");
        sandbox.json(&line)["expected_loss"].as_f64().unwrap()
    };
    let [default, all, few] = ["", "--forms blocks,factors", "--types q8_0,q4_0"].map(loss);
    assert!(all <= default && default < few, "{all} {default} {few}");
    // Factors alone, on tokens blocks alone.
    let line = format!("{COMPRESS} --max-bytes 200000 --forms factors --no-measure --json");
    let told = sandbox.json(&line);
    let forms = told["forms"].as_object().unwrap();
    let of_factors = forms.iter().filter(|(form, _)| form.starts_with("two factors"));
    assert_eq!(of_factors.map(|(_, count)| count.as_u64().unwrap()).sum::<u64>(), 28, "{told}");
    assert!(divergence(&sandbox, "low").is_finite());

    // The factors train, and are numbers from then on; blocks stay as they are.
    let train =
        "train low --text story.txt -o run --seq-len 32 --batch-size 2 --steps 3 --recompute";
    let dry = sandbox.json(&format!("{train} --dry-run --json"));
    for method in ["full", "lora"] {
        let line = format!("{train} --trainable {method}");
        sandbox.refuses(&line, "merge it first");
        let hint = sandbox.run(&line).stderr;
        assert!(hint.contains("--trainable lrc") && hint.contains("export --dense"), "{hint}");
    }
    let told = sandbox.json(&format!("{train} --json"));
    assert_eq!((&dry["trainable"], &dry["parameters"]), (&told["trainable"], &told["parameters"]));
    assert!(told["trainable"].as_u64().unwrap() > 0, "{told}");
    let [before, after] =
        ["low", "run/model"].map(|model| sandbox.tensors(&format!("{model}/model.safetensors")));
    let kept = before.keys().filter(|name| after.contains_key(*name));
    let blocks: Vec<&String> = kept.filter(|name| before[*name].dtype == Dtype::U8).collect();
    assert!(!blocks.is_empty());
    assert!(blocks.iter().all(|name| before[*name].data == after[*name].data), "{blocks:?}");
    assert!(after.keys().any(|name| name.ends_with(".V.weight")));
    assert!(divergence(&sandbox, "run/model").is_finite());
    sandbox
        .gives("train run/model --text story.txt -o again --seq-len 32 --batch-size 2 --steps 1");
}

#[test]
fn what_has_no_effect_and_what_no_forms_can_do_is_refused_before_any_work() {
    let sandbox = Sandbox::new();
    let line = "compress model --for welore -o low";
    sandbox.refuses(&format!("{line} --bits 5"), "--max-bytes");
    let message = sandbox.refuses(&format!("{line} --max-bytes 1000"), "out of reach");
    assert!(message.contains("smallest"), "{message}");
    let line = format!("{line} --max-bytes 130000");
    sandbox.refuses(&format!("{line} --forms channels"), "--forms channels");
    sandbox.refuses(&format!("{line} --save-types types.json"), "--save-types");
    sandbox.refuses(&format!("{line} --width-multiple 8"), "--width-multiple");
    sandbox.refuses(&format!("{line} --method svd"), "--method");
    sandbox.refuses(&format!("{line} --no-calibration"), "--no-calibration");
    sandbox.refuses(&format!("{line} --dry-run --no-measure"), "--no-measure");
    sandbox.refuses(&format!("{line} --report page.html"), "--report");
    let none = format!("{line} --types f32");
    sandbox.refuses(&none, "can have none of the forms");
    assert!(sandbox.run(&none).stderr.contains("f32 is no form"));
    sandbox.refuses("compress model --for welore --plan plan.json -o low", "--plan");
    let channels = "compress model --forms blocks --keep-params 0.5 -o low";
    sandbox.refuses(channels, "--forms blocks");
    let hint = sandbox.run(channels).stderr;
    assert!(hint.contains("--for welore"), "{hint}");
    sandbox.refuses("plan model --for welore --max-bytes 130000", "--for welore");
    assert!(!sandbox.path("low").exists());
}

#[test]
fn the_same_command_and_the_plan_of_the_directory_write_the_same_bytes() {
    let sandbox = Sandbox::new();
    sandbox.gives(CALIBRATE);
    let line = format!("{COMPRESS} --max-bytes 130000 --no-measure");
    sandbox.gives(&line);
    let once = sandbox.read("low/model.safetensors");
    sandbox.gives(&format!("{line} --force"));
    assert!(sandbox.read("low/model.safetensors") == once, "the directories differ");
    // Blocks alone do not train.
    sandbox.refuses("train low --text story.txt -o run --seq-len 32", "in blocks");
    // The plan of the directory makes it again, in the norm of its own.
    sandbox.write("plan.json", sandbox.read("low/welore_plan.json"));
    let again = "compress model --plan plan.json --calibration seen -o again --shrink-inputs 0.01 \
                 --shrink-gradients 0.1";
    let said = sandbox.gives(again).stderr;
    assert!(!said.contains("nothing is factored"), "blocks are no oddity: {said}");
    assert!(sandbox.read("again/model.safetensors") == once, "the plan makes another model");
}
