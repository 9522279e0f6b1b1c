//! DeepSeek's latent attention in files of llama.cpp's present form: keys and values of a layer are two
//! tensors.

use half::f16;
use safetensors::Dtype;
use serde_json::Value;
use tempfile::tempdir;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::model::read_config;

use super::writer::{Gguf, Meta};
use super::{convert, logits};
use crate::{checkpoint, expected, fixture, ids};

const HEADS: usize = 4;
const PLAIN: usize = 4;
const VALUES: usize = 12;
const SHORT: usize = 12;

/// Names in model directories, and in files.
const NAMES: [(&str, &str); 17] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("model.layers", "blk"),
    ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.o_proj", "attn_output"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("mlp.gate.", "ffn_gate_inp."),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
    ("self_attn.kv_b_proj", "attn_kv_b"),
];

/// tiny-deepseek-v2 as llama.cpp's converter writes it.
fn file() -> Gguf {
    let mut gguf = Gguf::default();
    gguf.set("general.architecture", Meta::Text("deepseek2".into()));
    for (key, size) in [
        ("block_count", 2),
        ("context_length", 512),
        ("embedding_length", 32),
        ("feed_forward_length", 24),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", 1),
        // Of what llama.cpp caches.
        ("attention.key_length", SHORT + 4),
        ("attention.value_length", SHORT),
        ("attention.key_length_mla", PLAIN + 4),
        ("attention.value_length_mla", VALUES),
        ("attention.kv_lora_rank", SHORT),
        ("rope.dimension_count", 4),
        ("expert_count", 4),
        ("expert_used_count", 2),
        ("expert_feed_forward_length", 8),
        ("expert_shared_count", 2),
        ("leading_dense_block_count", 1),
    ] {
        gguf.set(&format!("deepseek2.{key}"), Meta::U32(size as u32));
    }
    for (key, number) in [
        ("attention.layer_norm_rms_epsilon", 1e-6),
        ("rope.freq_base", 10000.0),
        ("expert_weights_scale", 1.5),
    ] {
        gguf.set(&format!("deepseek2.{key}"), Meta::F32(number));
    }
    gguf.add_tokens(64);
    add_tensors(&mut gguf, &checkpoint("tiny-deepseek-v2"));
    gguf
}

fn add_tensors(gguf: &mut Gguf, model: &Checkpoint) {
    let name_of = |name: &str| {
        NAMES.iter().fold(name.to_string(), |name, (own, theirs)| name.replace(own, theirs))
    };
    for name in model.names().filter(|name| !name.contains(".experts.")) {
        let (meta, bytes) = model.raw(name).unwrap();
        match name_of(name).split_once("attn_kv_b") {
            Some((layer, end)) => {
                let (keys, values) = apart(bytes);
                let shape = [HEADS, SHORT, PLAIN];
                gguf.add(&format!("{layer}attn_k_b{end}"), &shape, 0, keys);
                let shape = [HEADS, VALUES, SHORT];
                gguf.add(&format!("{layer}attn_v_b{end}"), &shape, 0, values);
            }
            None => gguf.add(&name_of(name), &meta.shape, 0, bytes.to_vec()),
        }
    }
    for (matrix, shape) in [("gate", [4, 8, 32]), ("up", [4, 8, 32]), ("down", [4, 32, 8])] {
        let expert = |expert: usize| {
            let name = format!("model.layers.1.mlp.experts.{expert}.{matrix}_proj.weight");
            model.raw(&name).unwrap().1.to_vec()
        };
        let all = (0..4).flat_map(expert).collect();
        gguf.add(&format!("blk.1.ffn_{matrix}_exps.weight"), &shape, 0, all);
    }
}

/// The keys of each head with columns for rows, and its values.
fn apart(both: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for head in both.chunks(4 * (PLAIN + VALUES) * SHORT) {
        let (of_keys, of_values) = head.split_at(4 * PLAIN * SHORT);
        for column in 0..SHORT {
            for row in 0..PLAIN {
                keys.extend(&of_keys[4 * (row * SHORT + column)..][..4]);
            }
        }
        values.extend(of_values);
    }
    (keys, values)
}

const MATRIX: &str = "model.layers.0.self_attn.kv_b_proj.weight";

#[test]
fn keys_and_values_that_a_file_has_apart_are_one_matrix_again() {
    let dir = tempdir().unwrap();
    let summary = convert(&file().bytes(), dir.path()).unwrap();
    assert_eq!(summary.types["F32"], file().tensors.len());
    let (back, model) = (dir.path().join("model"), checkpoint("tiny-deepseek-v2"));
    let read = Checkpoint::open(&back).unwrap();
    assert_eq!(read.raw(MATRIX).unwrap().1, model.raw(MATRIX).unwrap().1);
    let [got, want] = [&back, &fixture("tiny-deepseek-v2")].map(|dir| read_config(dir).unwrap());
    assert_eq!((got.latent, got.head_dim), (want.latent, want.head_dim));
    let config: Value =
        serde_json::from_slice(&std::fs::read(back.join("config.json")).unwrap()).unwrap();
    // transformers repeats keys for as many heads as there are for each of these.
    assert_eq!(config["num_key_value_heads"], HEADS);
    let tokens = ids(&expected("tiny-deepseek-v2")["input"]);
    let (got, want) = (logits(&back, &tokens), logits(&fixture("tiny-deepseek-v2"), &tokens));
    let gap = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(gap < 1e-4, "{gap}");
}

#[test]
fn keys_in_two_places_are_a_contradiction() {
    let mut gguf = file();
    let model = checkpoint("tiny-deepseek-v2");
    let (meta, bytes) = model.raw(MATRIX).unwrap();
    gguf.add("blk.0.attn_kv_b.weight", &meta.shape, 0, bytes.to_vec());
    let dir = tempdir().unwrap();
    let refused = convert(&gguf.bytes(), dir.path()).unwrap_err().to_string();
    let named = "`blk.0.attn_k_b.weight` contradicts `blk.0.attn_kv_b.weight`";
    assert!(refused.contains(named), "{refused}");
}

#[test]
fn keys_and_values_of_two_types_become_f32() {
    let mut gguf = file();
    let values = gguf.tensor("blk.0.attn_v_b.weight");
    let numbers = values.data.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x));
    values.data = numbers.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect();
    values.kind = 1;
    let dir = tempdir().unwrap();
    convert(&gguf.bytes(), dir.path()).unwrap();
    let back = Checkpoint::open(dir.path().join("model")).unwrap();
    assert_eq!(back.meta(MATRIX).unwrap().dtype, Dtype::F32);
    let got = back.read_f32(MATRIX).unwrap();
    let want = checkpoint("tiny-deepseek-v2").read_f32(MATRIX).unwrap();
    for (at, (got, want)) in got.into_iter().zip(want).enumerate() {
        let is_key = at / SHORT % (PLAIN + VALUES) < PLAIN;
        let want = if is_key { want } else { f16::from_f32(want).to_f32() };
        assert_eq!(got, want, "{at}");
    }
}

#[test]
fn a_file_with_keys_alone_or_in_another_shape_is_refused_with_the_tensor() {
    let dir = tempdir().unwrap();
    let refuses = |gguf: &Gguf, named: &str| {
        let error = convert(&gguf.bytes(), dir.path()).unwrap_err().to_string();
        assert!(error.contains("attn_v_b.weight") && error.contains(named), "{error}");
    };
    let mut alone = file();
    alone.tensors.retain(|tensor| tensor.name != "blk.1.attn_v_b.weight");
    refuses(&alone, "is missing");
    let mut turned = file();
    turned.tensor("blk.1.attn_v_b.weight").shape = vec![VALUES, HEADS, SHORT];
    refuses(&turned, "has shape [12, 4, 12], not [4, 12, 12]");
}
