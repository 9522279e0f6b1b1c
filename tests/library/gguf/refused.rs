//! GGUF files that are not supported, damaged or hostile.

use std::fs;

use tempfile::tempdir;
use welore_burn::ggml::ContainerError;
use welore_burn::gguf::GgufError;

use super::{byte_level, convert, with_tokens};
use crate::gguf::writer::{Gguf, Meta, tiny};

type Change = fn(&mut Gguf);

/// Every change to a good file gives an error that names it.
fn refuses_each<const N: usize>(cases: [(&str, Change); N]) {
    for (named, change) in cases {
        let mut gguf = if named == "5 tokens" { tiny(4, 4) } else { tiny(8, 4) };
        change(&mut gguf);
        let dir = tempdir().unwrap();
        let error = convert(&gguf.bytes(), dir.path()).unwrap_err().to_string();
        assert!(error.contains(named), "{named}: {error}");
        assert!(error.contains("model.gguf"), "{error}");
        assert!(!dir.path().join("model").exists());
    }
}

#[test]
fn metadata_that_are_not_supported_are_an_error_that_names_them() {
    refuses_each([
        ("rwkv7", |g| g.set("general.architecture", Meta::Text("rwkv7".into()))),
        ("general.architecture", |g| g.unset("general.architecture")),
        ("llama.block_count` is not a whole number", |g| {
            g.set("llama.block_count", Meta::Text("1".into()));
        }),
        ("llama.block_count` is 1000", |g| g.set("llama.block_count", Meta::U32(1000))),
        ("llama.embedding_length", |g| g.unset("llama.embedding_length")),
        ("num_attention_heads", |g| g.set("llama.attention.head_count", Meta::U32(0))),
        ("finite", |g| {
            g.set("llama.attention.layer_norm_rms_epsilon", Meta::F32(f32::INFINITY));
        }),
        ("llama.attention.value_length", |g| {
            g.set("llama.attention.value_length", Meta::U32(4));
        }),
        ("`blk.0.ffn_down_exps.weight` is missing", |g| {
            g.set("llama.expert_count", Meta::U32(8));
        }),
        ("llama.expert_count` is 8, but `blk.0.ffn_down_exps.weight` is of 2", |g| {
            g.set("llama.expert_count", Meta::U32(8));
            g.add_f32("blk.0.ffn_down_exps.weight", &[2, 4, 1], &[1.0; 8]);
        }),
        ("expert_weights_scale` is 2; only 1", |g| {
            g.set("llama.expert_weights_scale", Meta::F32(2.0));
        }),
        ("split.no` is missing", |g| g.set("split.count", Meta::U32(3))),
        ("spline", |g| g.set("llama.rope.scaling.type", Meta::Text("spline".into()))),
        ("rope_factors_short.weight` is missing", |g| {
            g.set("llama.rope.scaling.type", Meta::Text("longrope".into()));
        }),
    ]);
}

#[test]
fn tensors_that_are_not_supported_are_an_error_that_names_them() {
    refuses_each([
        ("rope_freqs.weight", |g| g.add_f32("rope_freqs.weight", &[1], &[0.5])),
        ("rope_factors_long.weight` does not belong", |g| {
            g.add_f32("rope_factors_long.weight", &[1], &[1.0]);
        }),
        ("`blk.0.ffn_up.weight` is I32", |g| g.tensor("blk.0.ffn_up.weight").kind = 26),
        ("`blk.0.ffn_up.weight` is missing", |g| {
            g.tensors.retain(|tensor| tensor.name != "blk.0.ffn_up.weight");
        }),
        ("`blk.0.ffn_up.scale` does not belong", |g| g.add_f32("blk.0.ffn_up.scale", &[1], &[1.0])),
        ("two tensors `output_norm.weight`", |g| {
            g.add_f32("output_norm.weight", &[2], &[1.0; 2]);
        }),
        ("has shape [1, 4], not [4, 1]", |g| {
            let tensor = g.tensor("blk.0.ffn_down.weight");
            tensor.shape.reverse();
        }),
        ("`token_embd.weight` is missing", |g| {
            g.tensors.retain(|tensor| tensor.name != "token_embd.weight");
        }),
        ("rows of length 4, which do not fill blocks of 32", |g| {
            let tensor = g.tensor("token_embd.weight");
            (tensor.kind, tensor.data) = (8, vec![0; 34]);
        }),
    ]);
}

#[test]
fn tokenizers_that_are_not_supported_are_an_error_that_names_them() {
    refuses_each([
        ("5 tokens", |g| g.add_tokens(5)),
        ("does not keep its number", |g| {
            let tokens = ["a", "b", "a"].map(String::from).to_vec();
            g.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
        }),
        ("wordpiece", |g| g.set("tokenizer.ggml.model", Meta::Text("wordpiece".into()))),
        ("viking", |g| g.set("tokenizer.ggml.pre", Meta::Text("viking".into()))),
        ("`tokenizer.ggml.pre`", |g| g.unset("tokenizer.ggml.pre")),
        ("`t0 t1`, whose tokens are not all in the vocabulary", |g| {
            g.set("tokenizer.ggml.merges", Meta::Texts(vec!["t0 t1".into()]));
        }),
        ("eos_token_id` is 9, but the number of tokens is 8", |g| {
            g.set("tokenizer.ggml.eos_token_id", Meta::U32(9));
        }),
    ]);
}

#[test]
fn few_tokens_that_stand_for_many_merges_are_refused() {
    let runs = |letter: &'static str| (1..=512).map(move |count| letter.repeat(count));
    let tokens: Vec<String> = ["a", "b"].into_iter().flat_map(runs).collect();
    let scores = vec![0.0; tokens.len()];
    let mut gguf = with_tokens(tokens);
    gguf.set("tokenizer.ggml.model", Meta::Text("llama".into()));
    gguf.set("tokenizer.ggml.scores", Meta::Numbers(scores));
    let dir = tempdir().unwrap();
    let error = convert(&gguf.bytes(), dir.path()).unwrap_err().to_string();
    assert!(error.contains("bytes of merges"), "{error}");
}

#[test]
fn weights_that_are_no_numbers_are_refused_and_nothing_is_left() {
    let mut gguf = tiny(1, 32);
    let tensor = gguf.tensor("token_embd.weight");
    // A scale that is not a number.
    (tensor.kind, tensor.data) = (8, [vec![0, 0x7e], vec![1; 32]].concat());
    let dir = tempdir().unwrap();
    match convert(&gguf.bytes(), dir.path()) {
        Err(GgufError::NotFinite { tensor, index: 0, .. }) => {
            assert_eq!(tensor, "token_embd.weight");
        }
        other => panic!("{other:?}"),
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|x| x.unwrap().file_name()).collect();
    assert_eq!(left, ["model.gguf"]);
}

#[test]
fn every_beginning_of_a_file_is_an_error() {
    let bytes = tiny(2, 2).bytes();
    let dir = tempdir().unwrap();
    for len in 0..bytes.len() {
        match convert(&bytes[..len], dir.path()) {
            Err(GgufError::Container(ContainerError::Header { .. })) => {}
            other => panic!("{len} of {} bytes: {other:?}", bytes.len()),
        }
    }
    convert(&bytes, dir.path()).unwrap();
}

/// Replaces the bytes that follow the first occurrence of a text, `skip` bytes after it.
fn overwrite(bytes: &mut [u8], text: &str, skip: usize, value: &[u8]) {
    let found = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    let start = found + text.len() + skip;
    bytes[start..start + value.len()].copy_from_slice(value);
}

#[test]
fn sizes_of_strangers_are_not_believed() {
    let whole = tiny(2, 2).bytes();
    let refused = |what: &str, bytes: Vec<u8>| {
        let dir = tempdir().unwrap();
        match convert(&bytes, dir.path()) {
            Err(GgufError::Container(ContainerError::Header { .. })) => {}
            other => panic!("{what}: {other:?}"),
        }
    };
    for huge in [u64::MAX, 1 << 62, 1 << 40, 1 << 20] {
        let huge = huge.to_le_bytes();
        let with = |text: &str, skip: usize| {
            let mut bytes = whole.clone();
            overwrite(&mut bytes, text, skip, &huge);
            bytes
        };
        // After the version.
        refused("tensors", with("GGUF", 4));
        refused("metadata", with("GGUF", 12));
        // After the type of the value.
        refused("text", with("general.architecture", 4));
        // After the type of the value and of its elements.
        refused("list", with("tokenizer.ggml.tokens", 8));
        refused("text in a list", with("tokenizer.ggml.tokens", 16));
        // After the number of dimensions.
        refused("rows", with("token_embd.weight", 4));
        // After two dimensions and the type.
        refused("place", with("token_embd.weight", 24));
    }
    let mut deep = tiny(2, 2);
    deep.set("deep", Meta::Nested(100_000));
    refused("lists in lists", deep.bytes());
    let mut shared = whole.clone();
    overwrite(&mut shared, "token_embd.weight", 24, &[0; 8]);
    refused("tensors in one place", shared);
    let mut askew = whole.clone();
    overwrite(&mut askew, "token_embd.weight", 24, &[1, 0, 0, 0, 0, 0, 0, 0]);
    refused("a place off the alignment", askew);
    for alignment in [0, 3, 1 << 31] {
        let mut gguf = tiny(2, 2);
        gguf.set("general.alignment", Meta::U32(alignment));
        refused("alignment", gguf.bytes());
    }
}

#[test]
fn damaged_files_are_errors_or_other_models_but_no_panics() {
    let whole = byte_level().bytes();
    let dir = tempdir().unwrap();
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut refused = 0;
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random(3) {
            let at = random(bytes.len());
            bytes[at] = random(256) as u8;
        }
        refused += usize::from(convert(&bytes, dir.path()).is_err());
    }
    assert!(refused > 0);
}
