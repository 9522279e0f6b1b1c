//! Plans and spectra that are broken, impossible, or from another model.

use serde_json::{Value, json};

use crate::support::Sandbox;

const PLAN: &str = "plan model --err 0.5 -o plan.json";
const COMPRESS: &str = "compress model --plan plan.json -o out";
const WEIGHTS: &str = "model/model.safetensors";
const Q_PROJ: &str = "model.layers.1.self_attn.q_proj";
const EVAL_LOW: &str = "eval low --text story.txt --seq-len 64 --windows 1";

fn planned() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.gives(PLAN);
    sandbox
}

/// The entry of [`Q_PROJ`], which is factored at ERR 0.5.
fn q_proj(plan: &mut Value) -> &mut Value {
    let matrices = plan["matrices"].as_array_mut().unwrap();
    matrices.iter_mut().find(|matrix| matrix["name"] == Q_PROJ).unwrap()
}

#[test]
fn plan_of_another_model_is_refused() {
    let sandbox = Sandbox::new();
    for fixture in ["tiny-qwen2", "tiny-llama3"] {
        sandbox.add(fixture, fixture);
        sandbox.gives(&format!("plan {fixture} --err 0.5 -o plan.json"));
        sandbox.refuses(COMPRESS, "another model");
    }
}

#[test]
fn plan_of_other_weights_is_refused_though_shapes_agree() {
    let sandbox = planned();
    sandbox.edit_tensors(WEIGHTS, |tensors| {
        tensors.get_mut(&format!("{Q_PROJ}.weight")).unwrap().data[0] ^= 1;
    });
    let message = sandbox.refuses(COMPRESS, "another model");
    assert!(message.contains(Q_PROJ), "{message}");
}

#[test]
fn impossible_matrices_are_named() {
    for (field, value) in [
        ("rank", json!(0)),
        ("rank", json!(65)),
        ("rank", json!(1_u64 << 63)),
        ("full_rank", json!(65)),
        ("full_rank", json!(1)),
        ("shape", json!([64, 32])),
    ] {
        let sandbox = planned();
        sandbox.edit_json("plan.json", |plan| q_proj(plan)[field] = value);
        let message = sandbox.refuses(COMPRESS, "plan.json");
        assert!(message.contains(Q_PROJ), "{message}");
    }
}

#[test]
fn values_of_a_wrong_type_are_refused() {
    for (field, value) in [
        ("rank", json!(-1)),
        ("rank", json!(1.5)),
        ("rank", json!("ten")),
        ("shape", json!([64, 64, 1])),
        ("form", json!("factors")),
        ("form", json!({ "kind": "factors" })),
        ("form", json!({ "kind": "factors", "rank": "ten" })),
        ("form", json!({ "kind": "magic", "rank": 10 })),
        ("low_rank", json!(true)),
        ("dtype", json!("F12")),
    ] {
        let sandbox = planned();
        sandbox.edit_json("plan.json", |plan| q_proj(plan)[field] = value);
        let message = sandbox.refuses(COMPRESS, "plan.json");
        assert!(!message.contains("usize") && !message.contains("enum"), "{message}");
    }
}

#[test]
fn unknown_fields_are_refused_wherever_they_are() {
    let sandbox = planned();
    sandbox.edit_json("plan.json", |plan| plan["max_rnak"] = json!(9));
    sandbox.refuses(COMPRESS, "max_rnak");
    let sandbox = planned();
    sandbox.edit_json("plan.json", |plan| q_proj(plan)["rnak"] = json!(9));
    sandbox.refuses(COMPRESS, "rnak");
}

#[test]
fn plan_must_have_every_matrix_once() {
    let sandbox = planned();
    sandbox.edit_json("plan.json", |plan| {
        let twice = q_proj(plan).clone();
        plan["matrices"].as_array_mut().unwrap().push(twice);
    });
    sandbox.refuses(COMPRESS, "appears twice");
    sandbox.edit_json("plan.json", |plan| plan["matrices"] = json!([]));
    sandbox.refuses(COMPRESS, "plan.json");
    sandbox.gives(PLAN);
    sandbox.edit_json("plan.json", |plan| q_proj(plan)["name"] = json!("model.layers.9.q_proj"));
    sandbox.refuses(COMPRESS, "model.layers.9.q_proj");
}

#[test]
fn files_of_a_newer_version_say_so() {
    let sandbox = planned();
    sandbox.gives("analyze model -o spectra.json");
    for file in ["plan.json", "spectra.json"] {
        // Newer versions may lack the fields of this one.
        sandbox.edit_json(file, |content| {
            content["version"] = json!(4);
            content["matrices"] = json!({});
        });
    }
    sandbox.refuses(COMPRESS, "version 4");
    sandbox.refuses("plan spectra.json --err 0.5", "version 4");
}

#[test]
fn text_that_is_no_plan_is_refused() {
    let sandbox = Sandbox::new();
    let texts: [&[u8]; 6] = [b"", b"{", b"[]", b"null", b"rank everything 7", b"\xff\xfe"];
    for text in texts {
        sandbox.write("plan.json", text);
        sandbox.refuses(COMPRESS, "plan.json");
        sandbox.refuses("plan plan.json --err 0.5 -o other.json", "plan.json");
    }
}

#[test]
fn spectra_and_plans_are_not_taken_for_each_other() {
    let sandbox = planned();
    sandbox.gives("analyze model -o spectra.json");
    let message = sandbox.refuses("compress model --plan spectra.json -o out", "spectra.json");
    assert!(message.contains("is a file of spectra"), "names what it is: {message}");
    let message = sandbox.refuses("plan plan.json --err 0.5 -o other.json", "plan.json");
    assert!(message.contains("welore-plan"), "names the actual format: {message}");
}

#[test]
fn missing_files_are_named() {
    let sandbox = Sandbox::new();
    sandbox.refuses("compress model --plan nowhere.json -o out", "nowhere.json");
    sandbox.refuses("plan nowhere.json --err 0.5 -o plan.json", "nowhere.json");
    sandbox.refuses("compress model --plan model -o out", "model");
}

#[test]
fn impossible_spectra_are_refused() {
    let edits: [&dyn Fn(&mut Value); 5] = [
        &|first| first["singular_values"][0] = json!(-1.0),
        &|first| first["singular_values"][63] = json!(1e9),
        &|first| drop(first["singular_values"].as_array_mut().unwrap().pop()),
        &|first| first["shape"] = json!([1_u64 << 40, 64]),
        &|first| first["shape"] = json!([0, 0]),
    ];
    for edit in edits {
        let sandbox = Sandbox::new();
        sandbox.gives("analyze model -o spectra.json");
        sandbox.edit_json("spectra.json", |spectra| edit(&mut spectra["matrices"][0]));
        let message = sandbox.refuses("plan spectra.json --err 0.5 -o plan.json", "spectra.json");
        assert!(message.contains("model.layers.0."), "{message}");
    }
}

#[test]
fn compressed_models_are_not_compressed_again() {
    let sandbox = planned();
    sandbox.gives("compress model --plan plan.json -o low");
    for line in [
        "compress low --err 0.5 -o out",
        "compress low --plan plan.json -o out",
        "analyze low -o spectra.json",
        "plan low --err 0.5 -o other.json",
    ] {
        sandbox.refuses(line, "already factored");
    }
}

#[test]
fn dense_models_are_not_exported() {
    let sandbox = Sandbox::new();
    let message = sandbox.refuses("export model --dense -o out", "dense already");
    assert!(message.starts_with("error: model: "), "{message}");
}

#[test]
fn directory_whose_plan_disagrees_with_its_weights_is_not_loaded() {
    let form = |rank| json!({ "kind": "factors", "rank": rank });
    for (field, value) in [
        ("rank", json!(63)),
        ("form", form(63)),
        ("form", json!({ "kind": "dense" })),
        ("form", form(0)),
        ("form", json!({ "kind": "pivot", "rank": 10 })),
    ] {
        let sandbox = Sandbox::new();
        sandbox.gives("compress model --err 0.5 -o low");
        sandbox.edit_json("low/welore_plan.json", |plan| q_proj(plan)[field] = value);
        for line in [EVAL_LOW, "generate low --prompt Mia"] {
            let message = sandbox.refuses(line, "low/welore_plan.json");
            assert!(message.contains(Q_PROJ), "{message}");
        }
    }
}

#[test]
fn directory_with_a_broken_plan_is_not_loaded() {
    let sandbox = Sandbox::new();
    sandbox.gives("compress model --err 0.5 -o low");
    let texts: [&[u8]; 3] = [b"", b"nonsense", b"\xff"];
    for text in texts {
        sandbox.write("low/welore_plan.json", text);
        sandbox.refuses(EVAL_LOW, "low/welore_plan.json");
        sandbox.refuses("inspect low", "low/welore_plan.json");
    }
}
