//! Calibration on `self`, a text that the model writes.

use serde_json::{Value, json};

use crate::support::Sandbox;

const AMOUNT: &str = "--calibration-seq-len 64 --calibration-windows 6 --gradient-windows 2";

#[test]
fn a_model_is_compressed_without_a_text() {
    let sandbox = Sandbox::new();
    // Nothing has to be tokenized.
    sandbox.remove("model/tokenizer.json");
    let line = format!("compress model --method best --calibrate self {AMOUNT} --keep-params 0.8");
    sandbox.gives(&format!("{line} -o out"));
    let plan = sandbox.json_file("out/welore_plan.json");
    assert!(plan["totals"]["keep_params"].as_f64().unwrap() <= 0.8);
    assert_eq!(plan["unit"], "loss");
    // A calibration is what was calibrated on the way.
    sandbox.gives(&format!("calibrate model --text self {AMOUNT} -o seen"));
    sandbox.gives("compress model --calibration seen --method best --keep-params 0.8 -o planned");
    let [a, b] = ["out", "planned"].map(|dir| sandbox.read(&format!("{dir}/model.safetensors")));
    assert!(a == b, "the weights differ");
}

#[test]
fn the_text_is_the_same_for_the_same_options() {
    let sandbox = Sandbox::new();
    let calibrated = |name: &str, options: &str| {
        let line = format!("calibrate model --text self {AMOUNT} {options} -o {name} --json");
        let texts = sandbox.json(&line)["texts"].clone();
        assert_eq!((&texts[0]["name"], texts.as_array().unwrap().len()), (&json!("self"), 1));
        (sandbox.tensors(name)["tokens"].clone(), texts[0]["digest"].clone())
    };
    let usual = calibrated("a", "");
    assert_eq!(usual, calibrated("b", ""));
    assert!(sandbox.read("a") == sandbox.read("b"), "the calibrations differ");
    for (name, options) in [
        ("seed", "--self-seed 1"),
        ("temperature", "--self-temperature 0.5"),
        ("start", "--self-start 7"),
        ("length", "--self-length 32"),
    ] {
        let other = calibrated(name, options);
        assert!(usual.0 != other.0 && usual.1 != other.1, "{options}");
    }
}

#[test]
fn samples_start_from_the_token_that_begins_a_text_or_else_from_one_that_ends_it() {
    let sandbox = Sandbox::new();
    let odd = [json!(-1), json!(384), json!("<s>"), Value::Null];
    for (begins, start) in odd.map(|begins| (begins, 7)).into_iter().chain([(json!(5), 5)]) {
        sandbox.edit_json("model/config.json", |config| {
            config["bos_token_id"] = begins.clone();
            config["eos_token_id"] = json!([7, 8]);
        });
        let made = sandbox.json(&format!("calibrate model --text self {AMOUNT} -o seen --json"));
        assert_eq!(made["texts"][0]["sampled"]["start"], start);
    }
}

#[test]
fn texts_are_mixed_in_equal_parts() {
    let sandbox = Sandbox::new();
    let amount = AMOUNT.replace("windows 6", "windows 7");
    let mixed = sandbox.json(&format!(
        "calibrate model --text self,story.txt {amount} --self-seed 3 -o mixed --json"
    ));
    let sampled = json!({
        "samples": 4, "length": 64, "temperature": 1.0, "seed": 3, "start": 0,
    });
    let texts = &mixed["texts"];
    assert_eq!((&texts[0]["name"], &texts[1]["name"]), (&json!("self"), &json!("story.txt")));
    assert_eq!((&texts[0]["windows"], &texts[1]["windows"]), (&json!(4), &json!(3)));
    assert_eq!((&texts[0]["sampled"], &texts[1]["sampled"]), (&sampled, &Value::Null));
    assert_eq!(mixed["windows"], 7);
    let compress = "--keep-params 0.8 --method two-sided";
    sandbox.gives(&format!("compress model --calibration mixed {compress} -o low"));
    sandbox.gives(&format!(
        "compress model --calibrate self,story.txt {amount} --self-seed 3 {compress} -o direct"
    ));
    let [a, b] = ["low", "direct"].map(|dir| sandbox.read(&format!("{dir}/model.safetensors")));
    assert!(a == b, "the weights differ");
    let compared = sandbox.json(&format!(
        "compare model --calibrate self,story.txt {amount} --text story.txt --methods two-sided \
         --keep-params 0.8 --seq-len 64 --windows 2 --json"
    ));
    assert_eq!(compared["rows"].as_array().unwrap().len(), 2);
}

#[test]
fn files_are_mixed_too_and_a_file_may_be_called_self() {
    let sandbox = Sandbox::new();
    sandbox.write("self", sandbox.read("story.txt"));
    let line = format!("calibrate model --text ./self,story.txt {AMOUNT} -o seen --json");
    let texts = sandbox.json(&line)["texts"].clone();
    for (place, name) in ["self", "story.txt"].into_iter().enumerate() {
        assert_eq!((&texts[place]["name"], &texts[place]["windows"]), (&json!(name), &json!(3)));
        assert!(texts[place]["sampled"].is_null(), "{texts}");
    }
    assert_eq!(texts[0]["digest"], texts[1]["digest"]);
}

#[test]
fn dry_run_tells_what_would_be_written() {
    let sandbox = Sandbox::new();
    let line = format!("calibrate model --text self,story.txt {AMOUNT} -o seen");
    let told = sandbox.json(&format!("{line} --dry-run --json"));
    assert_eq!(told["self"], json!({ "samples": 3, "length": 64 }));
    let done = sandbox.json(&format!("{line} --json"));
    for field in ["matrices", "windows", "gradient_windows", "seq_len"] {
        assert_eq!(told[field], done[field], "{field}");
    }
    sandbox.remove("seen");
    let said = sandbox.gives(&format!("{line} --dry-run")).stdout;
    assert!(said.contains("3 samples of 64 tokens"), "{said}");
    assert!(!sandbox.path("seen").exists());
}

#[test]
fn what_cannot_be_written_is_refused_with_a_hint() {
    let sandbox = Sandbox::new();
    sandbox.write("short.txt", "Mia had an apple.");
    let line = format!("calibrate model {AMOUNT} -o seen");
    let refused = |options: &str, named: &str, hint: &str| {
        let line = format!("{line} {options}");
        let message = sandbox.refuses(&line, named);
        assert!(message.len() < 300, "{message}");
        let said = sandbox.run(&line).stderr;
        assert!(said.lines().nth(1).unwrap_or_default().contains(hint), "`{line}` says: {said}");
    };
    refused("--text self,self", "twice", "--self-samples");
    refused("--text self --self-samples 0", "at least 1 sample", "--self-samples");
    refused("--text self --self-length 1", "at least 2 tokens", "--self-length");
    refused("--text self --self-length 513", "context of 512", "--self-length");
    refused("--text self --self-temperature 0", "temperature 0", "--self-temperature");
    refused("--text self --self-start 384", "token 384", "--self-start");
    refused("--text self --self-samples 99999999999", "tokens", "--self-samples");
    refused("--text self,short.txt", "short.txt: the text has", "longer text");
    refused("--text self --self-samples 2", "self: only 128 tokens", "--too-little");
    let few = AMOUNT.replace("windows 6", "windows 1");
    sandbox.refuses(
        &format!("calibrate model --text self,story.txt {few} -o seen"),
        "fewer than the 2 texts",
    );
    sandbox.edit_json("model/config.json", |config| {
        config["bos_token_id"] = Value::Null;
        config["eos_token_id"] = Value::Null;
    });
    refused("--text self", "no token to start from", "--self-start");
    sandbox.gives(&format!("{line} --text self --self-start 0"));
}
