//! Tokenizer files: published kinds give what the tokenizers crate gives, hostile ones are refused.
//! Those in `fixtures/tokenizers` belong to tiny-llama, with one part of each changed by hand.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use welore_burn::data::{DataError, TextTokenizer};
use welore_burn::files::FileError;

use crate::fixture;

/// What even the worst file may take; all of them together take less.
const LONGEST: Duration = Duration::from_secs(20);

const TEXTS: [&str; 8] = [
    "",
    " ",
    "Mia has a red ball.",
    "  two  spaces\n\n\tand lines\r\n  ",
    "I'll buy 1234567 apples, WE'VE 12!",
    "ﬁne Ａ①　é 的 …",
    "<s>Mia</s> <|begin_of_text|> Mia <mask>",
    "_____---///===\u{0}\u{feff}",
];

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn open(content: impl AsRef<[u8]>) -> Result<TextTokenizer, DataError> {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("tokenizer.json"), content).unwrap();
    TextTokenizer::open(dir.path())
}

fn added(id: u32, content: &str, normalized: bool) -> Value {
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

fn gpt2() -> Value {
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

fn llama2() -> Value {
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
fn unigram() -> Value {
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

fn published() -> [(&'static str, Value); 6] {
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

#[test]
fn published_kinds_give_what_the_tokenizers_crate_gives() {
    for (name, value) in published() {
        let content = value.to_string();
        let ours = open(&content).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut theirs = Tokenizer::from_bytes(&content).unwrap();
        theirs.with_truncation(None).unwrap();
        let long = TEXTS.concat().repeat(20);
        for text in TEXTS.into_iter().chain([long.as_str()]) {
            let expected = theirs.encode_fast(text, false).unwrap();
            let tokens = ours.encode(text).unwrap();
            assert_eq!(tokens, expected.get_ids(), "{name}: {text:?}");
            let expected = theirs.encode_fast(text, true).unwrap();
            assert_eq!(ours.encode_prompt(text).unwrap(), expected.get_ids(), "{name}: {text:?}");
            assert_eq!(
                ours.decode(&tokens).unwrap(),
                theirs.decode(&tokens, true).unwrap(),
                "{name}: {text:?}"
            );
            let mut stream = ours.stream_after(&[]).unwrap();
            let mut expected = theirs.decode_stream(true);
            for token in tokens {
                assert_eq!(stream(token).ok(), expected.step(token).ok(), "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn texts_become_what_they_are_in_the_published_kinds() {
    let ours = open(llama2().to_string()).unwrap();
    assert_eq!(ours.decode(&ours.encode("Mia has é.").unwrap()).unwrap(), "Mia has é.");
    let ours = open(unigram().to_string()).unwrap();
    assert_eq!(ours.decode(&ours.encode("ﬁ Ａ①").unwrap()).unwrap(), "fi A1");
}

#[test]
fn hostile_files_are_refused_when_they_are_opened() {
    let parts: BTreeMap<String, &str> = [
        ("decoder-bomb.json", "decoder"),
        ("fixedlength-0.json", "pre-tokenizer"),
        ("precompiled-8GB.json", "normalizer"),
        ("precompiled-empty.json", "normalizer"),
        ("precompiled-oob.json", "normalizer"),
        ("regex-backtrack.json", "pre-tokenizer"),
        ("replace-bomb.json", "normalizer"),
        ("strip-overflow.json", "decoder"),
    ]
    .map(|(name, part)| (name.to_string(), part))
    .into();
    let mut seen = 0;
    for entry in fs::read_dir(fixture("tokenizers")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        let start = Instant::now();
        let error = open(fs::read(&path).unwrap()).map(drop).unwrap_err();
        assert!(start.elapsed() < LONGEST, "{name}");
        let DataError::TokenizerPart { part, .. } = &error else { panic!("{name}: {error}") };
        assert_eq!(*part, parts[&name], "{name}: {error}");
        assert!(!error.to_string().contains('\n'), "{name}: {error}");
        seen += 1;
    }
    assert_eq!(seen, parts.len());
}

#[test]
fn files_of_any_length_are_not_read_whole() {
    let dir = TempDir::new().unwrap();
    // Sparse: it takes no room on the disk.
    File::create(dir.path().join("tokenizer.json")).unwrap().set_len(8 << 30).unwrap();
    let error = TextTokenizer::open(dir.path()).map(drop).unwrap_err();
    assert!(matches!(error, DataError::File(FileError::TooLarge { .. })), "{error}");
}

#[test]
fn a_chain_of_spaces_in_added_tokens_is_refused() {
    let mut value = gpt2();
    value["added_tokens"] = json!([added(260, " ", false)]);
    assert!(open(value.to_string()).is_ok());
    value["added_tokens"][0]["rstrip"] = true.into();
    let error = open(value.to_string()).map(drop).unwrap_err();
    assert!(matches!(error, DataError::TokenizerPart { .. }), "{error}");
    // Also if only the normalizer makes it a space.
    value["added_tokens"][0]["content"] = "~".into();
    value["added_tokens"][0]["normalized"] = true.into();
    assert!(open(value.to_string()).is_ok());
    value["normalizer"] =
        json!({ "type": "Replace", "pattern": { "String": "~" }, "content": " " });
    assert!(open(value.to_string()).is_err());
}

/// JSON pointers to everything in a file, but to little of its vocabulary.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.into());
    let children: Vec<(String, &Value)> = match value {
        Value::Object(map) => {
            map.iter().map(|(k, v)| (k.replace('~', "~0").replace('/', "~1"), v)).collect()
        }
        Value::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => Vec::new(),
    };
    let most = if at.ends_with("/vocab") || at.ends_with("/merges") { 2 } else { 12 };
    for (key, child) in children.into_iter().take(most) {
        pointers(child, &format!("{at}/{key}"), found);
    }
}

/// What may stand anywhere in a file by mistake or on purpose.
fn odd_values() -> Vec<Value> {
    let deep = (0..100).fold(json!(0), |inner, _| json!([inner]));
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(3),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!(" "),
        json!("x".repeat(5000)),
        json!("(a+)+$"),
        json!([]),
        json!({}),
        deep,
    ]
}

/// The file without what the pointer names.
fn without(value: &Value, pointer: &str) -> Value {
    let mut changed = value.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
    match changed.pointer_mut(parent) {
        Some(Value::Object(map)) => {
            map.remove(&key.replace("~1", "/").replace("~0", "~"));
        }
        Some(Value::Array(list)) => {
            list.remove(key.parse().unwrap());
        }
        _ => {}
    }
    changed
}

/// Uses a file in every way, if it can be opened: nothing may panic, hang or grow.
fn survives(path: &Path, value: &Value, what: &str) {
    let start = Instant::now();
    fs::write(path.join("tokenizer.json"), value.to_string()).unwrap();
    if let Ok(tokenizer) = TextTokenizer::open(path) {
        let text = TEXTS.concat();
        for tokens in
            [tokenizer.encode(&text), tokenizer.encode_prompt(&text)].into_iter().flatten()
        {
            assert!(tokens.len() < 10_000, "{what}: {} tokens", tokens.len());
            let decoded = tokenizer.decode(&tokens).unwrap_or_default();
            assert!(decoded.len() < 1 << 20, "{what}: {} bytes", decoded.len());
        }
        for ids in [&[][..], &[0], &[u32::MAX, 1, 2, 3]] {
            let _ = tokenizer.decode(ids);
            let _ = tokenizer.stream_after(ids).map(|mut stream| stream(0));
        }
    }
    assert!(start.elapsed() < LONGEST, "{what} takes {:?}", start.elapsed());
}

#[test]
fn changed_files_are_refused_or_work() {
    let dir = TempDir::new().unwrap();
    for (name, value) in published() {
        let mut places = Vec::new();
        pointers(&value, "", &mut places);
        assert!(places.len() > 30, "{name}");
        for place in places {
            survives(dir.path(), &without(&value, &place), &format!("{name} without {place}"));
            for odd in odd_values() {
                let mut changed = value.clone();
                *changed.pointer_mut(&place).unwrap() = odd.clone();
                let odd: String = odd.to_string().chars().take(40).collect();
                survives(dir.path(), &changed, &format!("{name} with {odd} at {place}"));
            }
        }
    }
}
