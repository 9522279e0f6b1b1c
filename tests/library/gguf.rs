//! GGUF files become model directories.

mod experts;
mod export;
mod families;
mod latent;
mod mxfp4;
mod read_only;
mod refused;
mod split;
pub mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{FloatDType, Int, Tensor, TensorData};
use safetensors::Dtype;
use serde_json::Value;
use tempfile::tempdir;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::data::{TextTokenizer, read_text};
use welore_burn::files::OutputDir;
use welore_burn::gguf::{GgufConversion, GgufError, GgufSummary, convert_gguf};
use welore_burn::model::{DecoderConfig, RopeScaling, load_model, read_config};

use self::writer::{Gguf, Meta, of_fixture, tiny};
use crate::{device, expected, fixture, ids};

/// Converts a file into `model` of a directory.
fn convert(gguf: &[u8], dir: &Path) -> Result<GgufSummary, GgufError> {
    let path = dir.join("model.gguf");
    fs::write(&path, gguf).unwrap();
    let output = OutputDir::create(dir.join("model"), true).unwrap();
    let summary = convert_gguf(&path, GgufConversion::default(), &output, &mut ())?;
    output.commit().unwrap();
    Ok(summary)
}

fn logits(dir: &Path, tokens: &[u32]) -> Vec<f64> {
    let model = load_model(dir, &device(), FloatDType::F32, &mut ()).unwrap().model;
    let tokens: Vec<i32> = tokens.iter().map(|t| *t as i32).collect();
    let len = tokens.len();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, len]), &device());
    model.forward(tokens).into_data().iter::<f64>().collect()
}

fn figures() -> Value {
    serde_json::from_str(&fs::read_to_string(fixture("gguf.json")).unwrap()).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let (pairs, _) = value.as_str().unwrap().as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(byte).collect()
}

#[test]
fn every_architecture_comes_back_and_computes_the_same() {
    for name in ["tiny-llama", "tiny-llama3", "tiny-qwen2", "tiny-mistral"] {
        let dir = tempdir().unwrap();
        let summary = convert(&of_fixture(name).bytes(), dir.path()).unwrap();
        let (model, original) = (dir.path().join("model"), fixture(name));
        let qwen2 = name == "tiny-qwen2";
        assert_eq!(summary.architecture, if qwen2 { "qwen2" } else { "llama" });
        let checkpoint = Checkpoint::open(&model).unwrap();
        assert_eq!(summary.parameters, Checkpoint::open(&original).unwrap().parameters());
        assert_eq!(summary.bytes, checkpoint.bytes());

        // The fields that a file does not state, and the scaling, which a small model does not
        // determine.
        let want = read_config(&original).unwrap();
        let got: DecoderConfig = read_config(&model)
            .unwrap()
            .with_initializer_range(want.initializer_range)
            .with_first_window_layer(want.first_window_layer)
            .with_rope_scaling(want.rope_scaling.clone());
        assert_eq!(got, want, "{name}");

        let tokens = ids(&expected(name)["input"]);
        let pairs: Vec<(f64, f64)> =
            logits(&model, &tokens).into_iter().zip(logits(&original, &tokens)).collect();
        let gap = pairs.iter().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let scale = pairs.iter().map(|(_, b)| b.abs()).fold(0.0, f64::max);
        assert!(gap < 1e-4 * scale, "{name}: {gap} of {scale}");
    }
}

#[test]
fn stated_licence_goes_along_and_nothing_else_that_a_stranger_wrote_there() {
    for (licence, kept) in [("apache-2.0", true), ("mit\nbase_model: x", false), ("", false)] {
        let dir = tempdir().unwrap();
        let mut gguf = tiny(1, 2);
        gguf.set("general.license", Meta::Text(licence.into()));
        convert(&gguf.bytes(), dir.path()).unwrap();
        let card = fs::read_to_string(dir.path().join("model/README.md")).ok();
        assert_eq!(card.is_some(), kept, "{licence}");
        assert!(card.is_none_or(|card| card.starts_with("---\nlicense: apache-2.0\n---\n")));
    }
}

#[test]
fn rows_of_queries_and_keys_are_put_back_in_order() {
    let mut gguf = tiny(1, 2);
    gguf.set("llama.attention.key_length", Meta::U32(6));
    gguf.set("llama.attention.value_length", Meta::U32(6));
    let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
    for (name, shape) in [("q", [6, 2]), ("k", [6, 2]), ("v", [6, 2]), ("output", [2, 6])] {
        let tensor = gguf.tensor(&format!("blk.0.attn_{name}.weight"));
        tensor.shape = shape.to_vec();
        tensor.data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    }
    let dir = tempdir().unwrap();
    convert(&gguf.bytes(), dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path().join("model")).unwrap();
    let read = |name: &str| {
        checkpoint.read_f32(&format!("model.layers.0.self_attn.{name}_proj.weight")).unwrap()
    };
    // Rows 0, 2, 4, then 1, 3, 5.
    let ordered = [0., 1., 4., 5., 8., 9., 2., 3., 6., 7., 10., 11.];
    assert_eq!(read("q"), ordered);
    assert_eq!(read("k"), ordered);
    assert_eq!(read("v"), values);
}

#[test]
fn every_type_gives_the_entries_that_llama_cpp_reads() {
    let figures = figures();
    for (name, row) in figures["types"].as_object().unwrap() {
        let mut gguf = tiny(1, 256);
        let embedding = gguf.tensor("token_embd.weight");
        embedding.kind = row["type"].as_u64().unwrap() as u32;
        embedding.data = hex(&row["bytes"]);
        let dir = tempdir().unwrap();
        let summary = convert(&gguf.bytes(), dir.path()).unwrap();
        assert!(summary.types.contains_key(name), "{name}: {:?}", summary.types);
        let checkpoint = Checkpoint::open(dir.path().join("model")).unwrap();
        let tensor = "model.embed_tokens.weight";
        let dtype = match &name[..] {
            "F16" => Dtype::F16,
            "BF16" => Dtype::BF16,
            _ => Dtype::F32,
        };
        assert_eq!(checkpoint.meta(tensor).unwrap().dtype, dtype);
        assert_eq!(bits(&checkpoint.read_f32(tensor).unwrap()), bits(&entries(row)), "{name}");
    }
}

/// What the `gguf` package reads in a row of `gguf.json`.
fn entries(row: &Value) -> Vec<f32> {
    let bytes = hex(&row["entries"]);
    bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

fn bits(entries: &[f32]) -> Vec<u32> {
    entries.iter().map(|x| x.to_bits()).collect()
}

/// A file with the tokens of a tokenizer and a model that fits.
fn with_tokens(tokens: Vec<String>) -> Gguf {
    let mut gguf = tiny(tokens.len(), 2);
    gguf.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
    gguf
}

fn open_tokenizer(gguf: &Gguf) -> TextTokenizer {
    let dir = tempdir().unwrap();
    convert(&gguf.bytes(), dir.path()).unwrap();
    TextTokenizer::open(dir.path().join("model")).unwrap()
}

/// The byte-level tokenizer of tiny-llama.
fn byte_level() -> Gguf {
    let text = fs::read_to_string(fixture("tiny-llama").join("tokenizer.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let by_id: BTreeMap<u64, String> =
        vocab.iter().map(|(token, id)| (id.as_u64().unwrap(), token.clone())).collect();
    let part = |value: &Value, i: usize| value[i].as_str().unwrap().to_string();
    let merges = json["model"]["merges"].as_array().unwrap();
    let merges = merges.iter().map(|merge| match merge.as_str() {
        Some(merge) => merge.to_string(),
        None => format!("{} {}", part(merge, 0), part(merge, 1)),
    });
    let mut kinds = vec![1; by_id.len()];
    kinds[0] = 3;
    let mut gguf = with_tokens(by_id.into_values().collect());
    gguf.set("tokenizer.ggml.merges", Meta::Texts(merges.collect()));
    gguf.set("tokenizer.ggml.token_type", Meta::Integers(kinds));
    gguf.set("tokenizer.ggml.bos_token_id", Meta::U32(0));
    gguf.set("tokenizer.ggml.eos_token_id", Meta::U32(0));
    gguf
}

#[test]
fn byte_level_tokens_are_those_of_the_original() {
    let original = TextTokenizer::open(fixture("tiny-llama")).unwrap();
    let mut gguf = byte_level();
    let text = read_text(fixture("story.txt")).unwrap() + "<|endoftext|> naïve 123";
    let tokenizer = open_tokenizer(&gguf);
    let tokens = tokenizer.encode(&text).unwrap();
    assert_eq!(tokens, original.encode(&text).unwrap());
    assert!(tokens.contains(&0));
    assert_eq!(tokenizer.decode(&tokens).unwrap(), original.decode(&tokens).unwrap());
    assert_eq!(tokenizer.encode_prompt("a").unwrap(), tokenizer.encode("a").unwrap());

    gguf.set("tokenizer.ggml.add_bos_token", Meta::Bool(true));
    let tokens = open_tokenizer(&gguf).encode_prompt("a").unwrap();
    assert_eq!(tokens, [vec![0], original.encode("a").unwrap()].concat());
}

#[test]
fn text_is_split_as_the_file_says() {
    const PIECES: [&str; 8] = ["1", "2", "3", "12", "123", "Ġ", "ĠĠ", "Ġ1"];
    let split = |pre: &str| -> Vec<&'static str> {
        let mut gguf = with_tokens(PIECES.map(String::from).to_vec());
        let merges = ["1 2", "12 3", "Ġ Ġ", "Ġ 1"];
        gguf.set("tokenizer.ggml.merges", Meta::Texts(merges.map(String::from).to_vec()));
        gguf.set("tokenizer.ggml.pre", Meta::Text(pre.into()));
        let ids = open_tokenizer(&gguf).encode("123  1").unwrap();
        ids.iter().map(|id| PIECES[*id as usize]).collect()
    };
    assert_eq!(split("gpt-2"), ["123", "Ġ", "Ġ1"]);
    assert_eq!(split("smollm"), ["1", "2", "3", "ĠĠ", "1"]);
    assert_eq!(split("llama-bpe"), ["123", "Ġ", "Ġ", "1"]);
    assert_eq!(split("qwen2"), ["1", "2", "3", "Ġ", "Ġ", "1"]);
    assert_eq!(split("tekken"), ["1", "2", "3", "Ġ", "Ġ", "1"]);
    assert_eq!(split("default"), ["123", "Ġ", "Ġ", "1"]);
}

/// The SentencePiece model of `gguf.json`.
fn sentence_piece() -> (Gguf, Value) {
    let figures = figures()["sentence_piece"].clone();
    let list = |key: &str| figures[key].as_array().unwrap().clone();
    let tokens = list("tokens").iter().map(|x| x.as_str().unwrap().to_string()).collect();
    let scores = list("scores").iter().map(|x| x.as_f64().unwrap() as f32).collect();
    let kinds = list("token_type").iter().map(|x| x.as_i64().unwrap() as i32).collect();
    let mut gguf = with_tokens(tokens);
    gguf.unset("tokenizer.ggml.merges");
    gguf.set("tokenizer.ggml.model", Meta::Text("llama".into()));
    gguf.set("tokenizer.ggml.pre", Meta::Text("default".into()));
    gguf.set("tokenizer.ggml.scores", Meta::Numbers(scores));
    gguf.set("tokenizer.ggml.token_type", Meta::Integers(kinds));
    (gguf, figures["texts"].clone())
}

#[test]
fn sentence_piece_tokens_are_those_of_sentence_piece() {
    let (mut gguf, texts) = sentence_piece();
    let tokenizer = open_tokenizer(&gguf);
    for case in texts.as_array().unwrap() {
        let (text, want) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
        assert_eq!(tokenizer.encode(text).unwrap(), want, "{text:?}");
        assert_eq!(tokenizer.decode(&want).unwrap(), text);
        // `<s>` comes first unless the file says otherwise.
        assert_eq!(tokenizer.encode_prompt(text).unwrap(), [vec![1], want].concat());
    }
    let spaced = tokenizer.encode("a").unwrap();
    gguf.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    gguf.set("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    let tokenizer = open_tokenizer(&gguf);
    assert_eq!(tokenizer.encode_prompt(" a").unwrap(), spaced);
    assert_ne!(tokenizer.encode("a").unwrap(), spaced);
}

#[test]
fn ends_of_texts_and_turns_are_told() {
    let mut gguf = tiny(4, 2);
    gguf.set("tokenizer.ggml.eos_token_id", Meta::U32(3));
    gguf.set("tokenizer.ggml.eot_token_id", Meta::U32(1));
    let dir = tempdir().unwrap();
    convert(&gguf.bytes(), dir.path()).unwrap();
    assert_eq!(read_config(dir.path().join("model")).unwrap().eos_token_ids, [3, 1]);
    let settings = fs::read_to_string(dir.path().join("model/tokenizer_config.json")).unwrap();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings["eos_token"], "t3");
}

#[test]
fn scaled_frequencies_are_read() {
    let mut gguf = tiny(1, 2);
    gguf.set("llama.rope.scaling.type", Meta::Text("linear".into()));
    gguf.set("llama.rope.scaling.factor", Meta::F32(4.0));
    let dir = tempdir().unwrap();
    convert(&gguf.bytes(), dir.path()).unwrap();
    let config = fs::read_to_string(dir.path().join("model/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["rope_scaling"]["rope_type"], "linear");
    assert_eq!(config["rope_scaling"]["factor"], 4.0);
}

#[test]
fn yarn_is_read_as_llama_cpp_computes_it_and_as_its_converter_states_it() {
    let scaling = |changes: &[(&str, f32)]| {
        let mut gguf = tiny(1, 2);
        gguf.set("llama.rope.scaling.type", Meta::Text("yarn".into()));
        gguf.set("llama.rope.scaling.factor", Meta::F32(4.0));
        gguf.set("llama.rope.scaling.original_context_length", Meta::U32(32));
        for (key, value) in changes {
            gguf.set(&format!("llama.rope.scaling.{key}"), Meta::F32(*value));
        }
        let dir = tempdir().unwrap();
        convert(&gguf.bytes(), dir.path()).unwrap();
        read_config(dir.path().join("model")).unwrap().rope_scaling
    };
    let usual = 0.1 * 4f64.ln() + 1.0;
    let yarn = |attention_factor: f64, beta_fast: f64| RopeScaling::Yarn {
        factor: 4.0,
        original_context: 32.0,
        beta_fast,
        beta_slow: 1.0,
        truncate: true,
        attention_factor,
    };
    assert_eq!(scaling(&[]), yarn(usual, 32.0));
    // llama.cpp multiplies its own factor by this one.
    assert_eq!(scaling(&[("attn_factor", 2.0)]), yarn(2.0 * usual, 32.0));
    // What the model's configuration said.
    let stated = [("yarn_attn_factor", 1.5), ("yarn_beta_fast", 16.0)];
    assert_eq!(scaling(&stated), yarn(1.5, 16.0));
}

#[test]
fn a_directory_that_outlives_its_process_can_be_written_to() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, tiny(2, 2).bytes()).unwrap();
    let output = OutputDir::resumable(dir.path().join("model"), false).unwrap();
    convert_gguf(&path, GgufConversion::default(), &output, &mut ()).unwrap();
    output.commit().unwrap();
    Checkpoint::open(dir.path().join("model")).unwrap();
}
