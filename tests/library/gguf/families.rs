//! Models of every family become files of llama.cpp's architectures, and the same models again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};
use welore_burn::checkpoint::Checkpoint;
use welore_burn::ggml::TensorType;
use welore_burn::gguf::GgufOptions;
use welore_burn::model::{DecoderConfig, QkNorm, read_config};

use super::export::{edit, export, model, there_and_back};
use super::logits;
use crate::turned::stored;
use crate::{expected, ids};

/// What is changed in a model so that llama.cpp has it.
type Change = fn(&mut Value);

/// The weights of a model by their names: types, shapes and bytes.
pub(super) type Weights = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub(super) fn nothing(_: &mut Value) {}

/// Changes the weights of a model in one file.
fn rewrite(dir: &Path, change: impl FnOnce(&mut Weights)) {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let read = |name: &str| {
        let (meta, bytes) = checkpoint.raw(name).unwrap();
        (name.to_string(), (meta.dtype, meta.shape.clone(), bytes.to_vec()))
    };
    let mut weights: Weights = checkpoint.names().map(read).collect();
    drop(checkpoint);
    change(&mut weights);
    let views = weights.iter().map(|(name, (dtype, shape, bytes))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
}

/// Asserts that a file and the directory that is made of it are a model of this architecture that
/// computes what the first one does. Returns the configurations of both.
pub(super) fn assert_comes_back(
    model: &Path,
    dir: &TempDir,
    name: &str,
    architecture: &str,
) -> [DecoderConfig; 2] {
    let (written, back) = there_and_back(model, dir.path());
    assert_eq!(written.architecture, architecture, "{name}");
    // Longer than the sliding window.
    let tokens = ids(&expected(name)["input"]);
    let (got, want) = (logits(&back, &tokens), logits(model, &tokens));
    let gap = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    let scale = want.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
    assert!(gap < 1e-4 * scale, "{name}: {gap} of {scale}");
    [model, back.as_path()].map(|dir| read_config(dir).unwrap())
}

/// A model, the architecture that it is written as, and what was changed in it.
const FAMILIES: [(&str, &str, Change); 23] = [
    ("tiny-qwen3", "qwen3", nothing),
    // Rotary positions are in all layers but every fourth.
    ("tiny-smollm3", "smollm3", |c| c["no_rope_layers"] = Value::Null),
    ("tiny-granite", "granite", nothing),
    ("tiny-gemma", "gemma", nothing),
    // The scale of attention follows from the width of heads.
    ("tiny-gemma2", "gemma2", |c| c["query_pre_attn_scalar"] = 16.into()),
    ("tiny-gemma3", "gemma3", |c| c["query_pre_attn_scalar"] = 8.into()),
    ("tiny-olmo2", "olmo2", nothing),
    ("tiny-phi3", "phi3", nothing),
    ("tiny-stablelm", "stablelm", nothing),
    ("tiny-stablelm-parallel", "stablelm", nothing),
    ("tiny-starcoder2", "starcoder2", nothing),
    ("tiny-cohere", "command-r", nothing),
    ("tiny-cohere2", "cohere2", nothing),
    ("tiny-glm", "chatglm", nothing),
    ("tiny-glm4", "glm4", nothing),
    ("tiny-neox", "gptneox", nothing),
    ("tiny-gpt2", "gpt2", nothing),
    ("tiny-falcon", "falcon", nothing),
    ("tiny-falcon-two-norms", "falcon", nothing),
    ("tiny-stablelm-heads", "stablelm", nothing),
    ("tiny-olmo", "olmo", nothing),
    ("tiny-arcee", "arcee", nothing),
    // The smaller models have no sliding window.
    ("tiny-exaone4", "exaone4", |c| {
        c["sliding_window"] = Value::Null;
        c["layer_types"] = vec!["full_attention"; 3].into();
    }),
];

#[test]
fn families_with_an_architecture_of_their_own_come_back() {
    for (name, architecture, change) in FAMILIES {
        let dir = tempdir().unwrap();
        let model = model(name, dir.path());
        edit(&model.join("config.json"), change);
        let [want, got] = assert_comes_back(&model, &dir, name, architecture);
        // What a file does not state, and what is stated in another way.
        let got = got
            .with_initializer_range(want.initializer_range)
            .with_first_window_layer(want.first_window_layer);
        assert_eq!(got, want, "{name}");
    }
}

/// Makes a model of a fixture with other weights.
pub(super) fn changed(
    name: &str,
    dir: &TempDir,
    config: Change,
    weights: fn(&mut Weights),
) -> PathBuf {
    let model = model(name, dir.path());
    edit(&model.join("config.json"), config);
    rewrite(&model, weights);
    model
}

#[test]
fn biases_and_heads_that_an_architecture_does_not_have_are_left_out_of_these_models() {
    type Case = (&'static str, &'static str, Change, fn(&mut Weights));
    let cases: [Case; 3] = [
        (
            "tiny-ernie",
            "ernie4_5",
            |c| c["use_bias"] = false.into(),
            |weights| {
                weights.retain(|name, _| !name.ends_with(".bias"));
            },
        ),
        (
            "tiny-seed-oss",
            "seed_oss",
            |c| c["attention_out_bias"] = false.into(),
            |weights| {
                weights.retain(|name, _| !name.ends_with("o_proj.bias"));
            },
        ),
        (
            "tiny-olmo3",
            "olmo2",
            |c| c["tie_word_embeddings"] = false.into(),
            |weights| {
                let head = weights["model.embed_tokens.weight"].clone();
                weights.insert("lm_head.weight".into(), head);
            },
        ),
    ];
    for (name, architecture, config, weights) in cases {
        let dir = tempdir().unwrap();
        let model = changed(name, &dir, config, weights);
        let [want, got] = assert_comes_back(&model, &dir, name, architecture);
        assert_eq!(got.window_rope, want.window_rope, "{name}");
        assert_eq!(got.sliding_window, want.sliding_window, "{name}");
    }
}

#[test]
fn families_that_llama_computes_as_well_are_written_as_llama() {
    for name in ["tiny-helium", "tiny-seed-oss", "tiny-ernie"] {
        let dir = tempdir().unwrap();
        let model = model(name, dir.path());
        assert_comes_back(&model, &dir, name, "llama");
    }
}

/// llama.cpp looks for norms of queries and keys in a Command R of 64 layers or more.
#[test]
fn norms_of_each_head_come_back_in_a_model_of_many_layers() {
    let dir = tempdir().unwrap();
    let many = |weights: &mut Weights| {
        for layer in 2..64 {
            let (from, to) =
                (format!("model.layers.{}.", layer % 2), format!("model.layers.{layer}."));
            let copies: Weights = weights
                .iter()
                .filter_map(|(name, tensor)| {
                    let rest = name.strip_prefix(&from)?;
                    Some((format!("{to}{rest}"), tensor.clone()))
                })
                .collect();
            weights.extend(copies);
        }
    };
    let model = changed("tiny-cohere-plus", &dir, |c| c["num_hidden_layers"] = 64.into(), many);
    let [want, got] = assert_comes_back(&model, &dir, "tiny-cohere-plus", "command-r");
    assert_eq!((got.qk_norm, want.qk_norm), (QkNorm::EachHead, QkNorm::EachHead));
}

pub(super) fn holds(file: &[u8], bytes: &[u8]) -> bool {
    file.windows(bytes.len()).any(|window| window == bytes)
}

#[test]
fn keys_and_tensors_have_the_names_of_llama_cpp() {
    // What is there, then what is not.
    let cases: [(&str, &[&str], &[&str]); 11] = [
        ("tiny-granite", &["granite.attention.scale", "granite.residual_scale"], &["softcapping"]),
        (
            "tiny-gemma2",
            &["blk.1.post_attention_norm.weight", "blk.1.post_ffw_norm.weight"],
            // Every other layer is what llama.cpp takes for granted.
            &["sliding_window_pattern"],
        ),
        (
            "tiny-gemma3",
            &["gemma3.rope.freq_base_swa", "sliding_window_pattern", "blk.0.attn_q_norm.weight"],
            &["softcapping"],
        ),
        ("tiny-phi3", &["blk.1.attn_qkv.weight", "blk.1.ffn_up.weight"], &["ffn_gate"]),
        (
            "tiny-starcoder2",
            &["starcoder2.attention.layer_norm_epsilon", "blk.0.ffn_norm.bias"],
            &["layer_norm_rms_epsilon", "ffn_gate"],
        ),
        ("tiny-olmo", &["olmo.attention.clamp_kqv"], &["attn_norm", "output_norm"]),
        ("tiny-neox", &["gptneox.use_parallel_residual", "blk.1.attn_qkv.bias"], &["gpt_neox"]),
        (
            "tiny-gpt2",
            &["gpt2.attention.layer_norm_epsilon", "position_embd.weight", "blk.1.attn_qkv.bias"],
            &["layer_norm_rms_epsilon", "ffn_gate"],
        ),
        (
            "tiny-falcon-two-norms",
            &["blk.1.attn_norm_2.bias", "blk.1.attn_norm.bias"],
            &["ffn_norm"],
        ),
        ("tiny-stablelm-heads", &["blk.1.attn_q_norm.weight"], &["ffn_norm"]),
        ("tiny-cohere2", &["cohere2.logit_scale", "blk.2.attn_norm.weight"], &["ffn_norm"]),
    ];
    for (name, there, not_there) in cases {
        let dir = tempdir().unwrap();
        let model = model(name, dir.path());
        let (_, _, change) = FAMILIES.into_iter().find(|(known, ..)| *known == name).unwrap();
        edit(&model.join("config.json"), change);
        let path = dir.path().join("model.gguf");
        export(&model, &path, &GgufOptions::default()).unwrap();
        let file = fs::read(path).unwrap();
        for key in there {
            assert!(holds(&file, key.as_bytes()), "{name}: {key}");
        }
        for key in not_there {
            assert!(!holds(&file, key.as_bytes()), "{name}: {key}");
        }
    }
}

/// The entries of a tensor of a fixture.
fn entries(model: &Path, tensor: &str) -> Vec<f32> {
    Checkpoint::open(model).unwrap().read_f32(tensor).unwrap()
}

fn bytes_of(entries: impl IntoIterator<Item = f32>) -> Vec<u8> {
    entries.into_iter().flat_map(f32::to_le_bytes).collect()
}

#[test]
fn norms_of_gemma_have_their_1_in_the_file() {
    let dir = tempdir().unwrap();
    let model = model("tiny-gemma", dir.path());
    let path = dir.path().join("model.gguf");
    export(&model, &path, &GgufOptions::default()).unwrap();
    let file = fs::read(path).unwrap();
    let norm = entries(&model, "model.norm.weight");
    assert!(holds(&file, &bytes_of(norm.iter().map(|x| x + 1.0))));
    assert!(!holds(&file, &bytes_of(norm)));
}

#[test]
fn rows_of_gpt_neox_are_all_queries_then_all_keys_then_all_values() {
    let dir = tempdir().unwrap();
    let model = model("tiny-neox", dir.path());
    let path = dir.path().join("model.gguf");
    export(&model, &path, &GgufOptions::default()).unwrap();
    let file = fs::read(path).unwrap();
    let (hidden, heads, width) = (32, 4, 8);
    for (kind, columns) in [("weight", hidden), ("bias", 1)] {
        let name = format!("gpt_neox.layers.1.attention.query_key_value.{kind}");
        let stored = entries(&model, &name);
        let mut ordered: Vec<f32> = Vec::new();
        for part in 0..3 {
            for head in 0..heads {
                let start = (head * 3 + part) * width * columns;
                ordered.extend(&stored[start..start + width * columns]);
            }
        }
        assert!(holds(&file, &bytes_of(ordered)), "{kind}");
    }
}

/// llama.cpp has its matrices as those of others, and wants its positions in F32 whatever is chosen.
#[test]
fn weights_of_gpt_2_come_back_in_the_layout_of_its_files() {
    let dir = tempdir().unwrap();
    let model = model("tiny-gpt2", dir.path());
    let (_, back) = there_and_back(&model, dir.path());
    assert_eq!(stored(&back), stored(&model));

    let path = dir.path().join("halves.gguf");
    let half = Some(TensorType::F16);
    let options = GgufOptions { projections: half, embedding: half, ..GgufOptions::default() };
    export(&model, &path, &options).unwrap();
    let file = fs::read(path).unwrap();
    assert!(holds(&file, &bytes_of(entries(&model, "transformer.wpe.weight"))));
    assert!(!holds(&file, &bytes_of(entries(&model, "transformer.wte.weight"))));
}

#[test]
fn what_llama_cpp_takes_for_granted_in_a_family_is_not_lost() {
    let cases: [(&str, &str, Change); 18] = [
        ("tiny-gemma2", "0.25 as the scale of attention", nothing),
        ("tiny-gemma2", "50 as the cap of the scores of attention", |c| {
            c["query_pre_attn_scalar"] = 16.into();
            c["attn_logit_softcapping"] = Value::Null;
        }),
        ("tiny-gemma2", "has a sliding window, and the model none", |c| {
            c["query_pre_attn_scalar"] = 16.into();
            c["sliding_window"] = Value::Null;
        }),
        ("tiny-gemma3", "does not scale RoPE as yarn does", |c| {
            c["query_pre_attn_scalar"] = 8.into();
            c["rope_parameters"]["full_attention"] = json!({
                "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
                "original_max_position_embeddings": 128,
            });
        }),
        ("tiny-smollm3", "`smollm3` of llama.cpp has rotary positions in all layers", nothing),
        ("tiny-olmo3", "needs a head beside the embedding", nothing),
        ("tiny-exaone4", "no sliding window on some layers only", nothing),
        ("tiny-ministral", "no sliding window on some layers only", nothing),
        ("tiny-qwen2-moe", "needs a head beside the embedding", nothing),
        ("tiny-qwen3-moe", "`qwen3moe` of llama.cpp has experts on all layers", nothing),
        ("tiny-olmoe", "a head of keys for each of queries", nothing),
        ("tiny-gpt-oss", "computes experts in another way", nothing),
        ("tiny-deepseek-v2", "short vectors for queries", nothing),
        ("tiny-deepseek-v3", "as the scale of attention", nothing),
        ("tiny-gpt2", "one scale of attention for all layers", |c| {
            c["scale_attn_by_inverse_layer_idx"] = true.into();
        }),
        ("tiny-arcee", "another activation", |c| c["hidden_act"] = "relu".into()),
        ("tiny-opt", "has no positions that are learned", nothing),
        ("tiny-cohere-plus", "has no norms of queries and keys", nothing),
    ];
    for (name, named, change) in cases {
        let dir = tempdir().unwrap();
        let model = model(name, dir.path());
        edit(&model.join("config.json"), change);
        let file = dir.path().join("model.gguf");
        let error = export(&model, &file, &GgufOptions::default()).unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
        assert!(!file.exists());
    }
}

#[test]
fn what_llama_cpp_computes_a_little_differently_is_said() {
    for (name, remark) in [
        ("tiny-mistral", "ignores the sliding window"),
        ("tiny-phi3", "ignores the sliding window"),
        ("tiny-neox", "approximates"),
        ("tiny-mixtral", "ignores the sliding window"),
        ("tiny-falcon", "approximates"),
        // Not those that llama.cpp takes for granted.
        ("tiny-cohere2", "older versions of llama.cpp take others"),
        ("tiny-qwen3", ""),
    ] {
        let dir = tempdir().unwrap();
        let model = model(name, dir.path());
        let path = dir.path().join("model.gguf");
        let written = export(&model, &path, &GgufOptions::default()).unwrap();
        assert_eq!(written.remarks.is_empty(), remark.is_empty(), "{name}");
        assert!(written.remarks.iter().all(|told| told.contains(remark)), "{name}");
    }
}
