//! Rotary positions of all kinds, against transformers.

use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use serde_json::{Value, json};
use tempfile::tempdir;
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::model::{
    ConfigError, Decoder, DecoderConfig, GenerateOptions, LanguageModel, RopeScaling, Sampler,
    generate, load_model,
};

use crate::{device, fixture, floats, ids};

/// A case of `rope.json`: the settings, and what is expected of them.
struct Case {
    name: String,
    figures: Value,
    model: Decoder,
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(fixture("rope.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    cases.into_iter().map(case).collect()
}

fn case(figures: Value) -> Case {
    let dir = tempdir().unwrap();
    let source = fixture(figures["model"].as_str().unwrap());
    for entry in fs::read_dir(&source).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    change(&dir.path().join("config.json"), &figures["config"]);
    let loaded = load_model(dir.path(), &device(), FloatDType::F32, &mut ());
    let name = figures["name"].as_str().unwrap().into();
    Case { name, figures, model: loaded.unwrap().model }
}

/// Replaces the rotary settings of a `config.json`, and other fields.
fn change(path: &Path, fields: &Value) {
    let text = fs::read_to_string(path).unwrap();
    let mut config: serde_json::Map<String, Value> = serde_json::from_str(&text).unwrap();
    for field in ["rope_theta", "rope_scaling", "rope_parameters"] {
        config.remove(field);
    }
    config.extend(fields.as_object().unwrap().clone());
    fs::write(path, Value::Object(config).to_string()).unwrap();
}

fn as_tensor(tokens: &[u32]) -> Tensor<2, Int> {
    let tokens: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    let len = tokens.len();
    Tensor::from_data(TensorData::new(tokens, [1, len]), &device())
}

fn rows(logits: Tensor<3>) -> Vec<Vec<f64>> {
    let vocab = logits.dims()[2];
    let flat: Vec<f64> = logits.into_data().iter::<f64>().collect();
    flat.chunks(vocab).map(<[f64]>::to_vec).collect()
}

#[test]
fn logits_agree_with_transformers_within_and_beyond_the_original_context() {
    for Case { name, figures, model } in cases() {
        let tokens = ids(&figures["input"]);
        let check = |rows: &[Vec<f64>], norms: &Value| {
            let norms = floats(norms);
            assert_eq!(rows.len(), norms.len());
            for (row, want) in rows.iter().zip(norms) {
                let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                assert!((norm - want).abs() < 1e-4 * want, "{name}: norm {norm} for {want}");
            }
        };
        let all = rows(model.forward(as_tensor(&tokens)));
        for (got, want) in all.last().unwrap().iter().zip(floats(&figures["last_logits"])) {
            assert!((got - want).abs() < 2e-3, "{name}: {got} for {want}");
        }
        check(&all, &figures["logits_norm"]);
        let short = figures["short_logits_norm"].as_array().unwrap().len();
        let few = rows(model.forward(as_tensor(&tokens[..short])));
        check(&few, &figures["short_logits_norm"]);
    }
}

#[test]
fn generation_with_the_cache_is_that_without_also_where_the_frequencies_change() {
    for Case { name, figures, model } in cases() {
        let prompt = figures["prompt"].as_u64().unwrap() as usize;
        let greedy = ids(&figures["greedy"]);
        let options = GenerateOptions { max_new_tokens: greedy.len(), stop: vec![] };
        let prompt = &ids(&figures["input"])[..prompt];
        let go_on = |_| ControlFlow::Continue(());
        let tokens = generate(&model, prompt, &mut Sampler::greedy(), &options, go_on);
        assert_eq!(tokens.unwrap(), greedy, "{name}");
    }
}

#[test]
fn the_cache_gives_the_last_logits_of_whole_passes() {
    for Case { name, figures, model } in cases() {
        let tokens = ids(&figures["input"]);
        let mut cache = model.cache();
        let mut seen = 0;
        // Into the original context, across its end with several tokens, and on one by one.
        for count in [10, 3, 9, 1, 1] {
            let hidden = model.extend(as_tensor(&tokens[seen..seen + count]), &mut cache);
            assert_eq!(hidden.dims()[1], count);
            seen += count;
            assert_eq!(cache.len(), seen);
            let got = rows(model.logits(hidden.narrow(1, count - 1, 1)));
            let whole = rows(model.forward(as_tensor(&tokens[..seen])));
            for (got, want) in got[0].iter().zip(whole.last().unwrap()) {
                assert!((got - want).abs() < 1e-3, "{name}: {got} for {want} at {seen}");
            }
        }
    }
}

#[test]
fn perplexity_agrees_in_windows_beyond_the_original_context() {
    for Case { name, figures, model } in cases() {
        let seq_len = figures["perplexity"]["seq_len"].as_u64().unwrap() as usize;
        let want = figures["perplexity"]["value"].as_f64().unwrap();
        for at_once in [1, 2] {
            let at_once = NonZeroUsize::new(at_once).unwrap();
            let options = PerplexityOptions { seq_len, at_once, ..Default::default() };
            let got = perplexity(&model, &ids(&figures["input"]), &options, &mut ()).unwrap();
            let got = got.perplexity;
            assert!((got / want - 1.0).abs() < 1e-4, "{name}: {got} for {want}");
        }
    }
}

/// A configuration with heads of 16 channels and a context of 512.
fn config(more: Value) -> Result<DecoderConfig, ConfigError> {
    let mut config = json!({
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    DecoderConfig::from_hf_json(&config.to_string())
}

#[test]
fn what_was_added_to_a_configuration_is_resolved_as_in_transformers() {
    let linear = |factor: f64| RopeScaling::Linear { factor };
    let scaling = json!({ "rope_type": "linear", "factor": 2.0 });
    let newer = json!({ "rope_type": "linear", "factor": 3.0, "rope_theta": 1e6 });
    for (fields, theta, want) in [
        // All of `rope_scaling`, or all of `rope_parameters`.
        (json!({ "rope_scaling": scaling, "rope_parameters": newer }), 1e4, linear(2.0)),
        (
            json!({ "rope_scaling": scaling, "rope_parameters": newer, "rope_theta": 5e5 }),
            5e5,
            linear(2.0),
        ),
        (json!({ "rope_scaling": {}, "rope_parameters": newer }), 1e6, linear(3.0)),
        (json!({ "rope_scaling": null, "rope_parameters": newer }), 1e6, linear(3.0)),
        (
            json!({ "rope_scaling": { "type": "default" }, "rope_parameters": newer }),
            1e4,
            RopeScaling::None,
        ),
        // The base within the settings comes first, and `rope_type` comes before `type`.
        (json!({ "rope_parameters": newer, "rope_theta": 5e5 }), 1e6, linear(3.0)),
        (
            json!({ "rope_scaling": { "type": "yarn", "rope_type": "linear", "factor": 2.0 } }),
            1e4,
            linear(2.0),
        ),
    ] {
        let config = config(fields.clone()).unwrap();
        assert_eq!((config.rope_theta, config.rope_scaling), (theta, want), "{fields}");
    }
}

#[test]
fn the_original_context_is_that_of_the_top_level_or_of_the_settings_or_the_whole() {
    let of = |top: Value, own: Value| {
        let yarn =
            json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": own });
        let fields = json!({ "rope_scaling": yarn, "original_max_position_embeddings": top });
        match config(fields).unwrap().rope_scaling {
            RopeScaling::Yarn { original_context, .. } => original_context,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(of(json!(128), json!(256)), 128.0);
    assert_eq!(of(json!(null), json!(256)), 256.0);
    assert_eq!(of(json!(null), json!(null)), 512.0);
}

#[test]
fn scaling_extends_the_context_that_it_scales() {
    let context = |rope: Value| config(json!({ "rope_scaling": rope })).unwrap().context();
    assert_eq!(context(json!({ "type": "dynamic", "factor": 2.5 })), 1280);
    let yarn = |original: usize| {
        let factor = 4.0;
        json!({ "type": "yarn", "factor": factor, "original_max_position_embeddings": original })
    };
    // Added to a model, or stated by one that was trained with it.
    assert_eq!((context(yarn(512)), context(yarn(128))), (2048, 512));
    // Files state the whole context.
    assert_eq!(context(json!({ "type": "linear", "factor": 4.0 })), 512);
}

#[test]
fn settings_that_are_wrong_are_refused_by_name() {
    let long = |factors: Value| {
        let short = vec![1.0; 8];
        json!({ "type": "longrope", "short_factor": short, "long_factor": factors })
    };
    for (rope, named) in [
        (json!({ "type": "proportional" }), "`rope_type`: proportional"),
        (json!({ "type": "linear" }), "`factor`"),
        (json!({ "type": "dynamic" }), "`factor`"),
        (json!({ "type": "dynamic", "factor": -1.0 }), "`factor`"),
        (json!({ "type": "yarn" }), "`factor`"),
        (json!({ "type": "yarn", "factor": 4.0, "attention_factor": -1.0 }), "`attention_factor`"),
        (json!({ "type": "yarn", "factor": 4.0, "beta_fast": -1.0 }), "`beta_fast`"),
        (json!({ "type": "yarn", "factor": 4.0, "rope_theta": 1.0 }), "`rope_theta`"),
        (
            json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 0 }),
            "`original_max_position_embeddings`",
        ),
        (json!({ "type": "longrope", "long_factor": vec![1.0; 8] }), "`short_factor`"),
        (long(json!(vec![1.0; 7])), "`long_factor`: has 7 numbers, not 8"),
        (long(json!(vec![0.0; 8])), "`long_factor`"),
        (long(json!("many")), "not a model configuration"),
        (json!({ "chunked_attention": { "type": "default" } }), "`chunked_attention`"),
    ] {
        let error = config(json!({ "rope_scaling": rope })).unwrap_err().to_string();
        assert!(error.contains(named), "{rope}: {error}");
    }
}
