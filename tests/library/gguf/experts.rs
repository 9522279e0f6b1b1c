//! Mixtures of experts become files in which the experts of a layer are one tensor, and the same models
//! again.

use std::collections::BTreeMap;
use std::fs;
use std::mem::take;
use std::path::{Path, PathBuf};

use burn::tensor::FloatDType;
use serde_json::Value;
use tempfile::{TempDir, tempdir};
use welore_burn::checkpoint::Checkpoint;
use welore_burn::files::OutputDir;
use welore_burn::ggml::{TensorType, WrittenType};
use welore_burn::gguf::{GgufConversion, GgufExport, GgufOptions, convert_gguf};
use welore_burn::model::{LanguageModel, load_model, open_model};
use welore_burn::types::{
    QuantizedSource, Rounding, TensorCosts, TypeBudget, TypeCost, TypePlan, candidates,
};

use super::export::export;
use super::families::{Weights, assert_comes_back, changed, holds, nothing};
use super::logits;
use crate::{device, expected, ids};

fn same(_: &mut Weights) {}

/// Leaves the first layer out, which has no experts.
fn without_first_layer(weights: &mut Weights) {
    let renamed = take(weights).into_iter().filter_map(|(name, tensor)| {
        let Some(rest) = name.strip_prefix("model.layers.") else { return Some((name, tensor)) };
        let (layer, rest) = rest.split_once('.').unwrap();
        let layer = layer.parse::<usize>().unwrap().checked_sub(1)?;
        Some((format!("model.layers.{layer}.{rest}"), tensor))
    });
    *weights = renamed.collect();
}

fn with_head(weights: &mut Weights) {
    without_first_layer(weights);
    let head = weights["model.embed_tokens.weight"].clone();
    weights.insert("lm_head.weight".into(), head);
}

/// Gives each of four queries a head of keys and values of its own, which are those of two.
fn with_all_heads(weights: &mut Weights) {
    for (name, (_, shape, bytes)) in weights {
        if ["k_proj.weight", "v_proj.weight", "k_norm.weight"].iter().any(|end| name.ends_with(end))
        {
            *bytes = bytes.chunks(bytes.len() / 2).flat_map(|head| head.repeat(2)).collect();
            shape[0] *= 2;
        }
    }
}

/// A fixture, the architecture that it is written as, what is changed in it so that llama.cpp has it,
/// and names in the file.
type Case = (&'static str, &'static str, fn(&mut Value), fn(&mut Weights), &'static [&'static str]);

const MODELS: [Case; 6] = [
    ("tiny-mixtral", "llama", nothing, same, &["llama.expert_count", "llama.expert_used_count"]),
    (
        "tiny-qwen2-moe",
        "qwen2moe",
        |c| {
            c["num_hidden_layers"] = 2.into();
            c["mlp_only_layers"] = Value::Array(Vec::new());
            c["layer_types"] = Value::Null;
            c["tie_word_embeddings"] = false.into();
        },
        with_head,
        &["qwen2moe.expert_shared_feed_forward_length", "blk.0.ffn_gate_inp_shexp.weight"],
    ),
    (
        "tiny-qwen3-moe",
        "qwen3moe",
        |c| {
            c["num_hidden_layers"] = 1.into();
            c["decoder_sparse_step"] = 1.into();
        },
        without_first_layer,
        &["qwen3moe.expert_feed_forward_length", "blk.0.attn_q_norm.weight"],
    ),
    (
        "tiny-olmoe",
        "olmoe",
        |c| {
            c["clip_qkv"] = Value::Null;
            c["num_key_value_heads"] = 4.into();
        },
        with_all_heads,
        &["olmoe.expert_count"],
    ),
    (
        "tiny-gpt-oss",
        "gpt-oss",
        |c| c["swiglu_limit"] = 7.0.into(),
        same,
        &["blk.0.attn_sinks.weight", "blk.1.ffn_up_exps.bias", "blk.1.ffn_gate_inp.bias"],
    ),
    (
        "tiny-deepseek-v3",
        "deepseek2",
        |c| c["rope_parameters"]["mscale"] = 0.7.into(),
        same,
        &["blk.0.attn_kv_b.weight", "blk.1.exp_probs_b.bias", "rope.scaling.yarn_log_multiplier"],
    ),
];

/// A model of these, made in a directory.
fn made(name: &str, dir: &TempDir) -> PathBuf {
    let (_, _, config, weights, _) = MODELS.into_iter().find(|(known, ..)| *known == name).unwrap();
    changed(name, dir, config, weights)
}

#[test]
fn models_with_experts_come_back() {
    for (name, architecture, _, _, there) in MODELS {
        let dir = tempdir().unwrap();
        let model = made(name, &dir);
        let [want, got] = assert_comes_back(&model, &dir, name, architecture);
        let got = got
            .with_initializer_range(want.initializer_range)
            .with_first_window_layer(want.first_window_layer);
        assert_eq!(got, want, "{name}");
        let file = fs::read(dir.path().join("model.gguf")).unwrap();
        for text in [".ffn_gate_inp.weight", ".ffn_down_exps.weight"].iter().chain(there) {
            assert!(holds(&file, text.as_bytes()), "{name}: {text}");
        }
        assert!(!holds(&file, b"experts."), "{name}");
    }
}

#[test]
fn experts_are_one_after_the_other_in_a_tensor() {
    let dir = tempdir().unwrap();
    let model = made("tiny-mixtral", &dir);
    let path = dir.path().join("model.gguf");
    let written = export(&model, &path, &GgufOptions::default()).unwrap();
    // Of each layer four matrices of attention, a router, three stacks and two norms.
    assert_eq!(written.types[&WrittenType::from(TensorType::F32)], 2 * (4 + 1 + 3 + 2) + 3);
    let file = fs::read(path).unwrap();
    let checkpoint = Checkpoint::open(&model).unwrap();
    for matrix in ["w1", "w2", "w3"] {
        let name =
            |expert| format!("model.layers.1.block_sparse_moe.experts.{expert}.{matrix}.weight");
        let stack: Vec<u8> =
            (0..4).flat_map(|n| checkpoint.raw(&name(n)).unwrap().1.to_vec()).collect();
        assert!(holds(&file, &stack), "{matrix}");
    }
}

#[test]
fn routers_are_f32_and_experts_have_the_type_that_is_asked_for() {
    let dir = tempdir().unwrap();
    let model = made("tiny-qwen2-moe", &dir);
    let path = dir.path().join("model.gguf");
    let options = GgufOptions { projections: Some(TensorType::F16), ..GgufOptions::default() };
    let written = export(&model, &path, &options).unwrap();
    // Of each layer: attention, three stacks and the shared expert.
    assert_eq!(written.types[&WrittenType::from(TensorType::F16)], 2 * (4 + 3 + 3));
    // Where matrices stay in their blocks, those of experts do, and routers do not.
    let [plain, packed] = [false, true].map(|packed| {
        let back = dir.path().join(format!("packed-{packed}"));
        read_back(&path, &back, packed);
        back
    });
    let names: Vec<String> = Checkpoint::open(&packed).unwrap().names().map(String::from).collect();
    for name in [
        "model.layers.0.mlp.gate.weight",
        "model.layers.1.mlp.shared_expert_gate.weight",
        "model.layers.0.mlp.experts.3.up_proj.weight.f16",
    ] {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
    let tokens = ids(&expected("tiny-qwen2-moe")["input"]);
    let (got, want) = (logits(&packed, &tokens), logits(&plain, &tokens));
    let gap = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(gap < 1e-3, "{gap}");
}

/// Makes a directory of a file.
fn read_back(file: &Path, dir: &Path, packed: bool) {
    let output = OutputDir::create(dir, false).unwrap();
    convert_gguf(file, GgufConversion { packed }, &output, &mut ()).unwrap();
    output.commit().unwrap();
}

#[test]
fn the_same_matrix_of_experts_cannot_have_two_types() {
    let dir = tempdir().unwrap();
    let model = made("tiny-mixtral", &dir);
    let path = dir.path().join("model.gguf");
    let expert = "model.layers.0.block_sparse_moe.experts.2.w1.weight";
    let router = "model.layers.0.block_sparse_moe.gate.weight";
    for (tensor, named) in [(expert, "they are one tensor"), (router, "is a router")] {
        let tensors = BTreeMap::from([(tensor.to_string(), TensorType::F16)]);
        let options = GgufOptions { tensors, ..GgufOptions::default() };
        let error = export(&model, &path, &options).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains(tensor), "{error}");
        assert!(!path.exists());
    }
}

/// A plan of types with made up costs.
fn plan_of(model: &Path, max_bytes: u64) -> TypePlan {
    let opened = open_model(model, &device()).unwrap();
    let types = [TensorType::F16, TensorType::Q8_0, TensorType::Q4_0];
    let names = opened.skeleton().matrices().into_iter().map(|matrix| matrix.name.weight());
    let costs: Vec<TensorCosts> = names
        .enumerate()
        .map(|(number, tensor)| {
            let shape = opened.checkpoint.matrix_shape(&tensor).unwrap();
            let cost = |(tensor_type, bytes): (TensorType, u64)| {
                let loss = (1 + number % 5) as f64 / bytes as f64;
                TypeCost { tensor_type, bytes, loss }
            };
            let candidates = candidates(shape, &types).map(cost).collect();
            TensorCosts { tensor, shape, digest: String::new(), candidates }
        })
        .collect();
    let is_chosen = |name: &str| costs.iter().any(|of| of.tensor == name);
    let export = GgufExport::new(&opened, &GgufOptions::default()).unwrap();
    let rest = export.bytes_without(is_chosen);
    TypePlan::new("tiny", "", &costs, rest, TypeBudget::MaxBytes(max_bytes)).unwrap()
}

#[test]
fn a_file_within_a_budget_has_one_type_for_the_same_matrix_of_all_experts() {
    let dir = tempdir().unwrap();
    let model = made("tiny-mixtral", &dir);
    // The smallest types take 20.6 kB less than F16.
    let budget = plan_of(&model, u64::MAX).bytes - 18_000;
    let least = plan_of(&model, budget);
    assert!(least.bytes <= budget);
    let type_of = |expert: usize, matrix: &str| {
        let name = format!("model.layers.1.block_sparse_moe.experts.{expert}.{matrix}.weight");
        least.matrices.iter().find(|choice| choice.tensor == name).unwrap().tensor_type
    };
    for matrix in ["w1", "w2", "w3"] {
        assert!((1..4).all(|expert| type_of(expert, matrix) == type_of(0, matrix)), "{matrix}");
    }
    // Rows of 16 entries.
    assert_eq!(type_of(0, "w2"), TensorType::F16);
    assert_ne!(type_of(0, "w1"), TensorType::F16);

    let opened = open_model(&model, &device()).unwrap();
    let tensors = least.matrices.iter().map(|choice| (choice.tensor.clone(), choice.tensor_type));
    let options = GgufOptions { tensors: tensors.collect(), ..GgufOptions::default() };
    let export = GgufExport::new(&opened, &options).unwrap();
    let path = dir.path().join("small.gguf");
    let source = QuantizedSource::new(&opened, None, Rounding::default());
    let written = export.write(&path, &source, &mut ()).unwrap();
    assert_eq!(written.bytes, least.bytes);
    assert_eq!(fs::metadata(&path).unwrap().len(), least.bytes);
    let back = dir.path().join("back");
    read_back(&path, &back, true);
    load_model(back, &device(), FloatDType::F32, &mut ()).unwrap();

    // llama-quantize is told once.
    let told = least.for_llama_quantize();
    let stacks = told.lines.iter().filter(|line| line.contains("_exps"));
    assert_eq!((stacks.count(), told.lines.len()), (2 * 3, 2 * (4 + 3)));
    assert!(told.lines.iter().any(|line| line.starts_with(r"^blk\.0\.ffn_up_exps\.weight$=")));
}
