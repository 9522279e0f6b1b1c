//! The kinds of tokenizers that are published, with few tokens each.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn added(id: u32, content: &str, normalized: bool) -> Value {
    json!({
        "id": id,
        "content": content,
        "single_word": false,
        "lstrip": content == "<mask>",
        "rstrip": false,
        "normalized": normalized,
        "special": true,
    })
}

/// Puts a token before a text.
fn template(id: u32, token: &str) -> Value {
    let special = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    json!({
        "type": "TemplateProcessing",
        "single": [special, text("A")],
        "pair": [special, text("A"), special, text("B")],
        "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } },
    })
}

fn bytes(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}

fn split(regex: &str) -> Value {
    json!({
        "type": "Split",
        "pattern": { "Regex": regex },
        "behavior": "Isolated",
        "invert": false,
    })
}

/// Numbers tokens in their order.
fn numbered<T: ToString>(tokens: impl IntoIterator<Item = T>) -> Value {
    let numbers = tokens.into_iter().enumerate().map(|(id, token)| (token.to_string(), id.into()));
    Value::Object(numbers.collect::<Map<String, Value>>())
}

/// A byte-level model, as in GPT-2, LLaMA 3 and Qwen.
fn byte_level() -> (Value, [(&'static str, &'static str); 4]) {
    let mut tokens: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    tokens.sort();
    let merges = [("Ġ", "M"), ("i", "a"), ("ĠM", "ia"), ("Ċ", "Ċ")];
    tokens.extend(merges.map(|(left, right)| format!("{left}{right}")));
    (numbered(tokens), merges)
}

pub(super) fn gpt2() -> Value {
    let (vocab, merges) = byte_level();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added(260, "<s>", false)],
        "normalizer": null,
        "pre_tokenizer": bytes(true),
        "post_processor": bytes(true),
        "decoder": bytes(true),
        // Without a type, as in the original file.
        "model": {
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": false,
            "vocab": vocab,
            "merges": merges.map(|(left, right)| format!("{left} {right}")),
        },
    })
}

fn llama3() -> Value {
    let (vocab, merges) = byte_level();
    json!({
        "version": "1.0",
        // What is left of its last use is ignored.
        "truncation": { "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0 },
        "padding": null,
        "added_tokens": [added(260, "<|begin_of_text|>", false)],
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split(LLAMA3), bytes(false)] },
        "post_processor": {
            "type": "Sequence",
            "processors": [bytes(false), template(260, "<|begin_of_text|>")],
        },
        "decoder": bytes(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": true,
            "vocab": vocab,
            "merges": merges,
        },
    })
}

fn qwen() -> Value {
    let mut value = llama3();
    value["normalizer"] = json!({ "type": "NFC" });
    let digits = json!({ "type": "Digits", "individual_digits": true });
    value["pre_tokenizer"]["pretokenizers"] = json!([digits, split(r"\s+(?!\S)|\s+"), bytes(true)]);
    value["post_processor"] = bytes(false);
    value
}

pub(super) fn llama2() -> Value {
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let bytes = (0..=255).map(|byte: u8| format!("<0x{byte:02X}>"));
    let letters = "▁abcdehilnoprstwyMIW.,".chars().map(String::from);
    let merged = ["ia", "Mia", "▁Mia", "▁a"].map(String::from);
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added(0, "<unk>", false), added(1, "<s>", true), added(2, "</s>", false)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                { "type": "Prepend", "prepend": "▁" },
                { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
            ],
        },
        "pre_tokenizer": null,
        "post_processor": template(1, "<s>"),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
                { "type": "ByteFallback" },
                { "type": "Fuse" },
                { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": "<unk>",
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "vocab": numbered(special.into_iter().chain(bytes).chain(letters).chain(merged)),
            "merges": ["i a", "M ia", "▁ Mia", "▁ a"],
        },
    })
}

/// SentencePiece's unigrams, as in T5, XLM-R and some LLaMAs.
pub(super) fn unigram() -> Value {
    let letters = "▁abcdefhilnoprstuwyMA1.,".chars().map(|c| json!([c, -5.5]));
    let pieces =
        [("▁Mia", -3.0), ("fi", -4.0), ("ed", -4.5)].map(|(text, score)| json!([text, score]));
    let vocab: Vec<Value> =
        [json!(["<unk>", 0.0])].into_iter().chain(letters).chain(pieces).collect();
    let map = charsmap(&[("ﬁ", "fi"), ("Ａ", "A"), ("①", "1"), ("\u{3000}", " "), ("\t", " ")]);
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added(0, "<unk>", false), added(99, "<mask>", false)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                { "type": "Precompiled", "precompiled_charsmap": map },
                { "type": "Strip", "strip_left": false, "strip_right": true },
                { "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": "▁" },
            ],
        },
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": true,
        },
        "post_processor": null,
        "decoder": { "type": "Metaspace", "replacement": "▁", "add_prefix_space": true },
        "model": { "type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": false },
    })
}

fn bert() -> Value {
    let tokens = ["[UNK]", "[CLS]", "mia", "has", "a", "red", "b", "##all", ".", "##s", "1"];
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [added(0, "[UNK]", false), added(1, "[CLS]", false)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": true,
            "strip_accents": null,
            "lowercase": true,
        },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": template(1, "[CLS]"),
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": numbered(tokens),
        },
    })
}

pub(super) fn published() -> [(&'static str, Value); 6] {
    [
        ("GPT-2", gpt2()),
        ("LLaMA 3", llama3()),
        ("Qwen", qwen()),
        ("LLaMA 2", llama2()),
        ("T5", unigram()),
        ("BERT", bert()),
    ]
}

/// SentencePiece's map of what is replaced by what: a trie in which each node has a block.
fn charsmap(replacements: &[(&str, &str)]) -> String {
    let mut nodes = vec![(BTreeMap::new(), None)];
    let mut strings = String::new();
    for (from, to) in replacements {
        let mut node = 0;
        for byte in from.bytes() {
            let next = nodes.len();
            node = *nodes[node].0.entry(byte).or_insert(next);
            if node == next {
                nodes.push((BTreeMap::new(), None));
            }
        }
        nodes[node].1 = Some(strings.len() as u32);
        strings.push_str(to);
        strings.push('\0');
    }
    let block = |node: usize| 256 * (node + 1);
    let mut units = vec![0_u32; block(nodes.len())];
    units[0] = (block(0) as u32) << 10;
    for (node, (children, value)) in nodes.iter().enumerate() {
        if let Some(value) = value {
            units[block(node)] = value | (1 << 31);
        }
        for (byte, child) in children {
            let place = block(node) ^ usize::from(*byte);
            let leaf = u32::from(nodes[*child].1.is_some());
            let offset = (place ^ block(*child)) as u32;
            units[place] = u32::from(*byte) | (leaf << 8) | (offset << 10);
        }
    }
    let size = (units.len() as u32 * 4).to_le_bytes();
    let trie = units.iter().flat_map(|unit| unit.to_le_bytes());
    base64(&size.into_iter().chain(trie).chain(strings.bytes()).collect::<Vec<u8>>())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for part in bytes.chunks(3) {
        let bits = (0..3)
            .fold(0_usize, |bits, i| (bits << 8) | usize::from(part.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * i)) & 63]);
            text.push(if i <= part.len() { digit } else { '=' });
        }
    }
    text
}
