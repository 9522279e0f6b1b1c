//! Configurations of unsupported or impossible models.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::Sandbox;

const CONFIG: &str = "model/config.json";
const EVAL: &str = "eval model --text story.txt --seq-len 64 --windows 1";

/// A sandbox in which a field of the model's configuration has another value.
fn with(field: &str, value: Value) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.edit_json(CONFIG, |config| config[field] = value);
    sandbox
}

#[test]
fn other_architectures_are_refused_where_the_model_has_to_run() {
    let sandbox = with("model_type", json!("qwen2x"));
    for line in [
        EVAL,
        "generate model --prompt Mia",
        "calibrate model --text story.txt -o calibration",
        "train model --text story.txt -o run",
        "export model --gguf model.gguf",
    ] {
        let message = sandbox.refuses(line, CONFIG);
        assert!(message.contains("qwen2x") && message.contains("`qwen2` ("), "{message}");
        let said = sandbox.run(line).stderr;
        let hint = said.lines().nth(1).unwrap_or_default();
        assert!(hint.contains("README.md") && hint.contains("weights only"), "{said}");
    }
}

#[test]
fn text_that_is_no_configuration_is_refused() {
    let sandbox = Sandbox::new();
    let deep = "[".repeat(100_000);
    let texts: [&[u8]; 6] = [b"", b"{", b"[]", b"null", deep.as_bytes(), b"\xff\xfe{}"];
    for text in texts {
        sandbox.write(CONFIG, text);
        sandbox.refuses("inspect model", CONFIG);
    }
}

#[test]
fn variations_that_are_not_implemented_are_named() {
    for (field, value, named) in [
        ("rope_parameters", json!({ "rope_type": "spline", "factor": 4.0 }), "spline"),
        ("hidden_act", json!("quick_gelu"), "quick_gelu"),
        ("quantization_config", json!({ "bits": 4 }), "quantiz"),
    ] {
        let message = with(field, value).refuses(EVAL, CONFIG);
        assert!(message.contains(named), "{message}");
    }
}

/// Older configurations have `rope_scaling`, and still older ones name its type `type`. Some tools
/// write both names.
#[test]
fn rope_settings_are_read_in_all_their_spellings() {
    let sandbox = Sandbox::new();
    sandbox.add("tiny-llama3", "older");
    let scaling = |settings: Value| {
        sandbox.edit_json("older/config.json", |config| config["rope_scaling"] = settings);
    };
    scaling(json!({ "rope_type": "linear", "factor": 2.0 }));
    let linear = sandbox.json("inspect older --json");
    for settings in [
        json!({ "type": "linear", "factor": 2.0 }),
        json!({ "type": "linear", "rope_type": "linear", "factor": 2.0 }),
    ] {
        scaling(settings);
        assert_eq!(sandbox.json("inspect older --json"), linear);
    }
    for settings in [
        json!({ "rope_type": "spline", "factor": 2.0 }),
        json!({ "type": "spline", "rope_type": "spline", "factor": 2.0 }),
    ] {
        scaling(settings);
        sandbox.refuses("eval older --text story.txt", "`rope_type`");
    }
}

#[test]
fn hostile_numbers_are_refused_at_once() {
    let huge = 1_u64 << 60;
    for (field, value) in [
        ("num_hidden_layers", json!(1_000_000_000_000_u64)),
        ("num_hidden_layers", json!(1 << 24)),
        ("num_hidden_layers", json!(0)),
        ("num_hidden_layers", json!(-4)),
        ("hidden_size", json!(huge)),
        ("hidden_size", json!(-64)),
        ("hidden_size", json!(1e300)),
        ("intermediate_size", json!(u64::MAX)),
        ("vocab_size", json!(huge)),
        ("num_attention_heads", json!(0)),
        ("num_attention_heads", json!(huge)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(15)),
        ("head_dim", json!(huge)),
        ("rms_norm_eps", json!(-1.0)),
        ("max_position_embeddings", json!(0)),
        ("max_position_embeddings", json!(-1)),
    ] {
        let sandbox = with(field, value.clone());
        let started = Instant::now();
        sandbox.refuses(EVAL, CONFIG);
        sandbox.refuses("compress model --err 0.5 -o out", CONFIG);
        assert!(started.elapsed() < Duration::from_secs(10), "{field} {value} takes long");
    }
}

#[test]
fn values_of_a_wrong_type_can_be_found() {
    for (field, value) in [
        ("hidden_size", json!("64")),
        ("hidden_size", json!(-64)),
        ("rms_norm_eps", json!("small")),
        ("tie_word_embeddings", json!("yes")),
        ("eos_token_id", json!("end")),
    ] {
        let message = with(field, value.clone()).refuses("inspect model", CONFIG);
        assert!(
            message.contains(field) || message.contains(" line "),
            "{field} {value}: {message}"
        );
    }
}

#[test]
fn configuration_larger_than_its_weights_is_refused_at_once() {
    for (field, value) in [
        ("num_hidden_layers", 10_000),
        ("hidden_size", 1 << 24),
        ("intermediate_size", 1 << 24),
        ("vocab_size", 1 << 24),
        ("head_dim", 1 << 24),
    ] {
        let sandbox = with(field, json!(value));
        let started = Instant::now();
        sandbox.refuses(EVAL, "model: ");
        assert!(started.elapsed() < Duration::from_secs(10), "{field} takes long");
    }
}

/// A last layer without those before it must not make the loader build thousands of layers.
#[test]
fn layers_that_the_weights_do_not_have_are_not_built() {
    let sandbox = with("num_hidden_layers", json!(10_000));
    let last = "model.layers.9999.input_layernorm.weight".to_string();
    sandbox.edit_tensors("model/model.safetensors", |tensors| {
        let norm = tensors["model.layers.3.input_layernorm.weight"].clone();
        tensors.insert(last, norm);
    });
    sandbox.refuses(EVAL, "tensor `model.layers.4.input_layernorm.weight` is missing");
}
