//! Tokenizers in the files that are written, as llama.cpp has them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::tempdir;
use welore_burn::data::{TextTokenizer, read_text};
use welore_burn::gguf::{GgufError, GgufOptions};

use super::{edit, export, model, there_and_back};
use crate::gguf::writer::{Gguf, Meta};
use crate::gguf::{byte_level, convert, sentence_piece};
use crate::{fixture, ids};

#[test]
fn name_by_which_llama_cpp_would_split_text_otherwise_is_left_out() {
    let dir = tempdir().unwrap();
    let (model, file) = (model("tiny-llama3", dir.path()), dir.path().join("model.gguf"));
    for (name, is_written) in [("My-Model", true), ("My-Phi-3-mini", false), ("phi3", false)] {
        let options = GgufOptions { name: Some(name.into()), ..GgufOptions::default() };
        export(&model, &file, &options).unwrap();
        let content = fs::read(&file).unwrap();
        let has = |text: &str| content.windows(text.len()).any(|part| part == text.as_bytes());
        assert_eq!((has(name), has("general.name")), (is_written, is_written), "{name}");
    }
}

#[test]
fn special_tokens_of_phi_3_take_the_spaces_after_them_in_a_file_with_its_name() {
    let dir = tempdir().unwrap();
    let (model, file) = (model("tiny-llama3", dir.path()), dir.path().join("model.gguf"));
    let tokens = [("<unk>", 0), ("<s>", 1), ("</s>", 2), ("<|endoftext|>", 10), ("<|user|>", 11)];
    edit(&model.join("tokenizer.json"), |tokenizer| {
        let added = tokens.map(|(token, id)| {
            tokenizer["model"]["vocab"][token] = id.into();
            let takes = token == "</s>" || token == "<|user|>";
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false,
                "rstrip": takes, "normalized": false, "special": true,
            })
        });
        tokenizer["added_tokens"] = json!(added);
    });
    for (name, found) in [(None, "Phi-3"), (Some("a"), "a (Phi-3)"), (Some("My-phi3"), "My-phi3")] {
        let options = GgufOptions { name: name.map(String::from), ..GgufOptions::default() };
        export(&model, &file, &options).unwrap();
        let content = fs::read(&file).unwrap();
        assert_eq!(text_of(&content, "general.name"), found);
        convert(&content, dir.path()).unwrap();
        let back = dir.path().join("model");
        let tokenizers = [&model, &back].map(|dir| TextTokenizer::open(dir).unwrap());
        for tokenizer in tokenizers {
            assert_eq!(tokenizer.encode("</s>  a<|user|> b<s> c").unwrap(), [2, 3, 11, 4, 1, 9, 5]);
        }
    }
    edit(&model.join("tokenizer.json"), |tokenizer| {
        tokenizer["added_tokens"][4]["rstrip"] = false.into();
    });
    let error = export(&model, &file, &GgufOptions::default()).unwrap_err().to_string();
    assert!(error.contains("token 2 depends on the spaces around it"), "{error}");
}

/// A text in the metadata of a file.
fn text_of(file: &[u8], key: &str) -> String {
    let found = file.windows(key.len()).position(|bytes| bytes == key.as_bytes()).unwrap();
    // After the type of the value.
    let start = found + key.len() + 4;
    let (len, rest) = file[start..].split_first_chunk::<8>().unwrap();
    String::from_utf8(rest[..u64::from_le_bytes(*len) as usize].to_vec()).unwrap()
}

/// Both directories that a file becomes: at first, and after it was written again.
fn twice(gguf: &Gguf, dir: &Path) -> [TextTokenizer; 2] {
    convert(&gguf.bytes(), dir).unwrap();
    let model = dir.join("model");
    let before = TextTokenizer::open(&model).unwrap();
    let (_, back) = there_and_back(&model, dir);
    [before, TextTokenizer::open(back).unwrap()]
}

#[test]
fn ways_to_split_text_are_named_again() {
    let text = read_text(fixture("story.txt")).unwrap() + "<|endoftext|> naïve 12345  I'LL\n\n x";
    for (read, written) in [
        ("gpt-2", "gpt-2"),
        ("smollm", "smollm"),
        ("llama-bpe", "llama-bpe"),
        ("falcon3", "llama-bpe"),
        ("smaug-bpe", "smaug-bpe"),
        ("qwen2", "qwen2"),
        ("megrez", "deepseek-r1-qwen"),
        ("tekken", "tekken"),
        ("default", "default"),
        ("olmo", "olmo"),
        ("exaone4", "gpt-2"),
        ("refact", "smollm"),
        ("command-r", "command-r"),
        ("dbrx", "smaug-bpe"),
        ("glm4", "llama-bpe"),
        ("stablelm2", "deepseek-r1-qwen"),
        ("seed-coder", "seed-coder"),
        ("gpt-4o", "gpt-4o"),
    ] {
        let dir = tempdir().unwrap();
        let mut gguf = byte_level();
        gguf.set("tokenizer.ggml.pre", Meta::Text(read.into()));
        gguf.set("tokenizer.chat_template", Meta::Text("{{ messages }}".into()));
        let [before, after] = twice(&gguf, dir.path());
        let tokens = before.encode(&text).unwrap();
        assert_eq!(tokens, after.encode(&text).unwrap(), "{read}");
        assert_eq!(before.decode(&tokens).unwrap(), after.decode(&tokens).unwrap(), "{read}");
        assert_eq!(before.encode_prompt("a").unwrap(), after.encode_prompt("a").unwrap());
        let file = fs::read(dir.path().join("model.gguf")).unwrap();
        assert_eq!(text_of(&file, "tokenizer.ggml.pre"), written);
        assert_eq!(text_of(&file, "tokenizer.chat_template"), "{{ messages }}");
    }
}

#[test]
fn merges_of_sentence_piece_become_scores_again() {
    let (mut gguf, texts) = sentence_piece();
    for prefix in [true, false] {
        gguf.set("tokenizer.ggml.add_space_prefix", Meta::Bool(prefix));
        let dir = tempdir().unwrap();
        let [before, after] = twice(&gguf, dir.path());
        for case in texts.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let tokens = before.encode_prompt(text).unwrap();
            assert_eq!(tokens, after.encode_prompt(text).unwrap(), "{text:?}");
            if prefix {
                assert_eq!(tokens[1..], ids(&case["ids"]), "{text:?}");
            }
        }
    }
}

#[test]
fn a_split_at_spaces_is_none_where_no_spaces_are_left() {
    let (mut gguf, _) = sentence_piece();
    gguf.set("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
    let dir = tempdir().unwrap();
    convert(&gguf.bytes(), dir.path()).unwrap();
    let model = dir.path().join("model");
    let file = dir.path().join("out.gguf");
    let splits_at = |text: &str| {
        edit(&model.join("tokenizer.json"), |t| {
            t["pre_tokenizer"] = json!({
                "type": "Split", "pattern": { "String": text }, "behavior": "MergedWithPrevious",
                "invert": false,
            });
        });
        export(&model, &file, &GgufOptions::default())
    };
    splits_at(" ").unwrap();
    let error = splits_at("a").unwrap_err().to_string();
    assert!(error.contains("treats spaces in another way"), "{error}");
}

#[test]
fn tokenizers_that_llama_cpp_does_not_have_are_refused_by_what_they_do() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 9] = [
        ("splits text in a way", |t| t["pre_tokenizer"]["add_prefix_space"] = true.into()),
        ("splits text in a way", |t| t["normalizer"] = json!({ "type": "Lowercase" })),
        ("splits text in a way", |t| t["model"]["ignore_merges"] = true.into()),
        ("depends on the spaces around it", |t| t["added_tokens"][0]["lstrip"] = true.into()),
        ("end_of_word_suffix", |t| t["model"]["end_of_word_suffix"] = "</w>".into()),
        ("neither byte-level", |t| t["decoder"] = Value::Null),
        ("several tokens", |t| {
            let token = json!({ "SpecialToken": { "id": "<|endoftext|>", "type_id": 0 } });
            let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
            let special = json!({ "id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"] });
            t["post_processor"] = json!({
                "type": "TemplateProcessing",
                "single": [token, token, text],
                "pair": [text, { "Sequence": { "id": "B", "type_id": 1 } }],
                "special_tokens": { "<|endoftext|>": special },
            });
        }),
        ("some bytes have no token", |t| t["model"]["byte_fallback"] = true.into()),
        ("has no row in the embedding", |t| t["model"]["vocab"]["more"] = 384.into()),
    ];
    let dir = tempdir().unwrap();
    let model = model("tiny-llama", dir.path());
    let tokenizer = model.join("tokenizer.json");
    let original = fs::read(&tokenizer).unwrap();
    let refused = |named: &str| {
        let file = dir.path().join("model.gguf");
        match export(&model, &file, &GgufOptions::default()) {
            Err(error @ GgufError::Unsupported { .. }) => {
                assert!(error.to_string().contains(named), "{named}: {error}");
            }
            other => panic!("{named}: {other:?}"),
        }
        assert!(!file.exists());
    };
    for (named, change) in cases {
        fs::write(&tokenizer, &original).unwrap();
        edit(&tokenizer, change);
        refused(named);
    }
    fs::remove_file(&tokenizer).unwrap();
    refused("no tokenizer.json");
}

#[test]
fn merges_that_no_scores_stand_for_are_refused() {
    let (gguf, _) = sentence_piece();
    let dir = tempdir().unwrap();
    convert(&gguf.bytes(), dir.path()).unwrap();
    let model = dir.path().join("model");
    let tokenizer = model.join("tokenizer.json");
    let original = fs::read(&tokenizer).unwrap();
    let file = dir.path().join("out.gguf");
    let refused = |change: fn(&mut Vec<Value>)| {
        fs::write(&tokenizer, &original).unwrap();
        edit(&tokenizer, |t| change(t["model"]["merges"].as_array_mut().unwrap()));
        export(&model, &file, &GgufOptions::default()).unwrap_err().to_string()
    };
    let message = refused(|merges| drop(merges.pop()));
    assert!(message.contains("are not merged, though"), "{message}");
    let message = refused(Vec::clear);
    assert!(message.contains("are not merged, though"), "{message}");
}
