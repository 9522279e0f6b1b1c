//! Tokenizer files: published kinds give what the tokenizers crate gives, hostile ones are refused.
//! Those in `fixtures/tokenizers` belong to tiny-llama, with one part of each changed by hand.

mod kinds;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokenizers::Tokenizer;
use welore_burn::data::{DataError, TextTokenizer};
use welore_burn::files::FileError;

use self::kinds::{added, gpt2, llama2, published, unigram};
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

fn open(content: impl AsRef<[u8]>) -> Result<TextTokenizer, DataError> {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("tokenizer.json"), content).unwrap();
    TextTokenizer::open(dir.path())
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
