//! Importance matrices of llama.cpp on the command line, and the labels of gradients.

use serde_json::{Value, json};

use crate::support::Sandbox;

const CALIBRATE: &str = "--calibration-seq-len 64 --calibration-windows 4 --gradient-windows 1";

/// A sandbox with a calibration of `model` in `seen`, and an importance matrix of it.
fn with_imatrix() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.gives(&format!("calibrate model --text story.txt {CALIBRATE} -o seen"));
    let written = sandbox.json("imatrix seen -o imatrix.gguf --json");
    assert_eq!(written["matrices"], 28);
    assert_eq!(written["bytes"], sandbox.read("imatrix.gguf").len());
    sandbox
}

fn manifest(sandbox: &Sandbox, name: &str) -> Value {
    serde_json::from_slice(&sandbox.tensors(name)["manifest"].data).unwrap()
}

/// An importance matrix of the format before GGUF, for the matrices of a calibration: all inputs are
/// equally large.
fn legacy(sandbox: &Sandbox) -> Vec<u8> {
    let manifest = manifest(sandbox, "seen");
    let matrices = manifest["matrices"].as_array().unwrap();
    let number = |n: usize| (n as i32).to_le_bytes();
    let mut file = number(matrices.len()).to_vec();
    for matrix in matrices {
        let name = matrix["name"].as_str().unwrap().replace("self_attn.o_proj", "attn_output");
        let words = [("model.layers", "blk"), ("self_attn.", "attn_"), ("mlp.", "ffn_")];
        let name = words.iter().fold(name, |name, (from, to)| name.replace(from, to));
        let name = format!("{}.weight", name.replace("_proj", ""));
        let inputs = matrix["shape"][1].as_u64().unwrap() as usize;
        file.extend(number(name.len()));
        file.extend(name.as_bytes());
        file.extend(number(2));
        file.extend(number(inputs));
        file.extend(4f32.to_le_bytes().repeat(inputs));
    }
    file
}

#[test]
fn types_and_channels_need_gradients_which_an_importance_matrix_lacks() {
    let sandbox = with_imatrix();
    for way in ["--for llama.cpp --bits 5", "--forms channels --keep-params 0.8"] {
        let line = format!("compress model {way} --calibration imatrix.gguf -o out");
        sandbox.refuses(&line, "the importance matrix has no gradients");
        assert!(!sandbox.run(&line).stderr.contains("--method"), "{way} takes no --method");
    }
    sandbox.refuses("inspect imatrix.gguf", "is an importance matrix, not a model");
}

#[test]
fn an_importance_matrix_is_a_calibration_for_the_whitened_method() {
    let sandbox = with_imatrix();
    let options = "--calibration imatrix.gguf --method whitened --keep-params 0.7";
    sandbox.gives(&format!("plan model {options} -o plan.json"));
    let plan = sandbox.json_file("plan.json");
    assert_eq!(plan["unit"], "inputs");
    sandbox.gives("compress model --plan plan.json --calibration imatrix.gguf -o planned");
    sandbox.gives(&format!("compress model {options} -o low"));
    assert!(sandbox.read("low/model.safetensors") == sandbox.read("planned/model.safetensors"));
    let eval = |model: &str| {
        let line = format!("eval {model} --text story.txt --seq-len 64 --windows 4 --json");
        sandbox.json(&line)["perplexity"].as_f64().unwrap()
    };
    sandbox.gives("compress model --keep-params 0.7 --method svd --storage pivot -o plain");
    let (low, plain) = (eval("low"), eval("plain"));
    assert!(low.is_finite() && low != plain, "{low} for {plain}");

    let compare =
        "compare model --text story.txt --calibration imatrix.gguf --seq-len 64 --windows 2";
    let line = format!("{compare} --methods svd,whitened --keep-params 0.7 --json");
    let compared = sandbox.json(&line);
    assert_eq!(compared["rows"].as_array().unwrap().len(), 3);
    assert_eq!(
        compared["calibrated_on"],
        json!([{ "name": "story.txt", "windows": 4, "digest": "" }])
    );

    for line in [
        "plan model --keep-params 0.7 --calibration imatrix.gguf",
        "compress model --keep-params 0.7 --calibration imatrix.gguf -o out",
        "compress model --keep-params 0.7 --calibration imatrix.gguf --method sequential -o out",
        compare,
    ] {
        sandbox.refuses(line, "imatrix.gguf: an importance matrix has no gradients");
        assert!(sandbox.run(line).stderr.contains("--method whitened"), "{line}");
    }
    let refine = "--calibration imatrix.gguf --method whitened --refine 1 -o out";
    sandbox.refuses(&format!("compress model --keep-params 0.7 {refine}"), "contains no text");
}

#[test]
fn the_format_before_gguf_is_read_and_becomes_gguf() {
    let sandbox = with_imatrix();
    sandbox.write("old.dat", legacy(&sandbox));
    let options = "--method whitened --keep-params 0.7";
    sandbox.gives(&format!("compress model {options} --calibration old.dat -o low"));
    sandbox.gives("imatrix old.dat -o new.gguf");
    sandbox.gives(&format!("compress model {options} --calibration new.gguf -o again"));
    assert!(sandbox.read("low/model.safetensors") == sandbox.read("again/model.safetensors"));
}

#[test]
fn files_that_are_no_importance_matrices_of_this_model_are_refused() {
    let sandbox = with_imatrix();
    sandbox.add("tiny-llama3", "other");
    let options = "--method whitened --keep-params 0.7";
    let refuses = |model: &str, file: &str, named: &str| {
        sandbox.refuses(&format!("compress {model} {options} --calibration {file} -o out"), named);
    };
    refuses("other", "imatrix.gguf", "another model");
    sandbox.write("model.gguf", crate::gguf::of_fixture("tiny-llama").bytes());
    refuses("model", "model.gguf", "not an importance matrix");
    let mut bytes = sandbox.read("imatrix.gguf");
    bytes.truncate(bytes.len() / 2);
    sandbox.write("half.gguf", &bytes);
    refuses("model", "half.gguf", "half.gguf");
    let mut old = legacy(&sandbox);
    old.truncate(old.len() - 1);
    sandbox.write("half.dat", &old);
    refuses("model", "half.dat", "half.dat");
    sandbox.refuses("imatrix story.txt -o out.gguf", "story.txt is a text, not a calibration");
    sandbox.refuses(
        "eval model --text story.txt --seq-len 64 --windows 1 --against seen",
        "seen is a calibration, not a model",
    );
    sandbox.write("text.gguf", sandbox.read("story.txt"));
    sandbox.refuses("inspect text.gguf", "text.gguf is a text, not a GGUF file");
    sandbox.refuses("imatrix nowhere -o out.gguf", "nowhere");
    sandbox.refuses("imatrix seen -o seen", "an input of this command");
}

#[test]
fn gradients_are_for_the_labels_that_were_asked_for() {
    let sandbox = Sandbox::new();
    let calibrate = |options: &str, output: &str| {
        let line = format!("calibrate model --text story.txt {CALIBRATE} {options}");
        sandbox.json(&format!("{line} -o {output} --json"))["gradient_labels"].clone()
    };
    assert_eq!(calibrate("", "of-text"), "text");
    assert_eq!(calibrate("--gradient-labels model", "drawn"), "model");
    assert_eq!(calibrate("--gradient-labels model --label-seed 0", "again"), "model");
    assert_eq!(calibrate("--gradient-labels model --label-seed 3", "other"), "model");
    let stated = |name: &str| {
        let manifest = manifest(&sandbox, name);
        (manifest["gradient_labels"].clone(), manifest["label_seed"].clone())
    };
    assert_eq!(stated("of-text"), (json!("text"), Value::Null));
    assert_eq!(stated("drawn"), (json!("model"), json!(0)));
    assert_eq!(stated("other"), (json!("model"), json!(3)));
    let gradients =
        |name: &str| sandbox.tensors(name)["model.layers.0.mlp.up_proj.outputs"].data.clone();
    assert!(gradients("drawn") == gradients("again"), "the same seed draws the same labels");
    assert!(gradients("drawn") != gradients("other"));
    assert!(gradients("drawn") != gradients("of-text"));
    let said = sandbox.gives(&format!(
        "calibrate model --text story.txt {CALIBRATE} --gradient-labels model -o said"
    ));
    assert!(said.stdout.contains("labels that the model draws"), "{}", said.stdout);
    for (calibration, is_said) in [("drawn", true), ("of-text", false)] {
        let line = format!("compress model --calibration {calibration} --keep-params 0.7");
        sandbox.gives(&format!("{line} -o low-{calibration}"));
        let card = sandbox.read(&format!("low-{calibration}/README.md"));
        let card = String::from_utf8(card).unwrap();
        assert_eq!(card.contains("for tokens that the model drew"), is_said, "{card}");
    }
}
