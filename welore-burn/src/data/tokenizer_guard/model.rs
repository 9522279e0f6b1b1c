//! The vocabulary and how pieces of text become tokens of it.

use std::collections::HashMap;

use serde_json::{Map, Value};
use tokenizers::ModelWrapper;

use super::{Fault, read_as};

const PART: &str = "model";

const MAX_TOKENS: usize = 1 << 20;
const MAX_MERGES: usize = 1 << 21;
const MAX_TOKEN: usize = 4096;

/// The longest name of the unknown token, prefix and suffix, which go with each character.
const MAX_AFFIX: usize = 128;

/// The longest token in a list with scores, all of whose beginnings are tried at each place.
const MAX_PIECE: usize = 256;

/// The most nodes of the tree of such tokens, each of which takes some 400 bytes.
const MAX_NODES: usize = 4 << 20;

/// The longest word for WordPiece, which tries all parts of it.
const MAX_WORD: u64 = 256;

/// The longest token that may share its number with another one.
const MAX_SHARED: usize = 64;

/// Reads it.
///
/// # Errors
///
/// [`Fault`].
pub(super) fn read(value: Value) -> Result<ModelWrapper, Fault> {
    for name in ["unk_token", "continuing_subword_prefix", "end_of_word_suffix"] {
        if text(&value, name).len() > MAX_AFFIX {
            return Err(Fault::of(PART, format!("`{name}` has more than {MAX_AFFIX} bytes")));
        }
    }
    let longest_word = value.get("max_input_chars_per_word").and_then(Value::as_u64);
    if longest_word.is_some_and(|length| length > MAX_WORD) {
        let reason = format!("`max_input_chars_per_word` is more than {MAX_WORD}");
        return Err(Fault::of(PART, reason));
    }
    match value.get("vocab") {
        Some(Value::Object(tokens)) => check_tokens(tokens)?,
        Some(Value::Array(pieces)) => check_pieces(pieces)?,
        _ => {}
    }
    if let Some(Value::Array(merges)) = value.get("merges") {
        check_merges(merges, text(&value, "continuing_subword_prefix"))?;
    }
    read_as(PART, value)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn check_count(count: usize) -> Result<(), Fault> {
    if count > MAX_TOKENS {
        return Err(Fault::of(PART, format!("it has more than {MAX_TOKENS} tokens")));
    }
    Ok(())
}

fn check_tokens(tokens: &Map<String, Value>) -> Result<(), Fault> {
    check_count(tokens.len())?;
    let mut lengths = HashMap::with_capacity(tokens.len());
    for (token, id) in tokens {
        if token.len() > MAX_TOKEN {
            return Err(Fault::of(PART, format!("a token has more than {MAX_TOKEN} bytes")));
        }
        // Otherwise a short token could stand for a long one, many times in a text.
        let other = lengths.insert(id.as_u64(), token.len());
        if other.is_some_and(|other| other.max(token.len()) > MAX_SHARED) {
            return Err(Fault::of(PART, "two tokens have the same number"));
        }
    }
    Ok(())
}

fn check_pieces(pieces: &[Value]) -> Result<(), Fault> {
    check_count(pieces.len())?;
    let mut tokens: Vec<&str> = pieces.iter().filter_map(|piece| piece.get(0)?.as_str()).collect();
    if tokens.iter().any(|token| token.len() > MAX_PIECE) {
        return Err(Fault::of(PART, format!("a token has more than {MAX_PIECE} bytes")));
    }
    let bytes: usize = tokens.iter().map(|token| token.len()).sum();
    if bytes > MAX_NODES && nodes(&mut tokens) > MAX_NODES {
        return Err(Fault::of(PART, "its tokens have too little in common"));
    }
    Ok(())
}

/// The different beginnings of all tokens.
fn nodes(tokens: &mut [&str]) -> usize {
    tokens.sort_unstable();
    let mut nodes = 0;
    let mut last = "";
    for &token in tokens.iter() {
        let common = last.bytes().zip(token.bytes()).take_while(|(a, b)| a == b).count();
        nodes += token.len() - common;
        last = token;
    }
    nodes
}

/// The right part of a merge is cut where its prefix ends, which has to be one.
fn check_merges(merges: &[Value], prefix: &str) -> Result<(), Fault> {
    if merges.len() > MAX_MERGES {
        return Err(Fault::of(PART, format!("it has more than {MAX_MERGES} merges")));
    }
    let right = |merge: &Value| match merge {
        Value::String(pair) => pair.split_once(' ').is_some_and(|(_, b)| b.starts_with(prefix)),
        pair => pair.get(1).and_then(Value::as_str).is_some_and(|b| b.starts_with(prefix)),
    };
    // The first line of a list of merges may name its version.
    let mut named = merges
        .iter()
        .filter(|merge| merge.as_str().is_none_or(|line| !line.starts_with("#version")));
    if prefix.is_empty() || named.all(right) {
        return Ok(());
    }
    Err(Fault::of(PART, "a merge lacks the prefix of continuing subwords"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bpe(vocab: Value, merges: Value, prefix: Value) -> Value {
        json!({
            "type": "BPE",
            "vocab": vocab,
            "merges": merges,
            "continuing_subword_prefix": prefix,
        })
    }

    fn refused(value: Value, problem: &str) {
        let message = read(value).unwrap_err().to_string();
        assert!(message.contains(problem), "{message} instead of {problem}");
    }

    #[test]
    fn prefixes_of_merges_are_checked_before_they_are_cut() {
        let vocab = json!({ "a": 0, "##b": 1, "ab": 2, "é": 3 });
        for merges in [json!(["a ##b"]), json!([["a", "##b"]]), json!(["#version: 0.2", "a ##b"])] {
            read(bpe(vocab.clone(), merges, json!("##"))).unwrap();
        }
        for merges in [json!(["a é"]), json!([["a", "é"]]), json!([["a"]]), json!([1])] {
            refused(bpe(vocab.clone(), merges, json!("##")), "prefix");
        }
    }

    #[test]
    fn tokens_and_affixes_have_a_longest_length() {
        let long = "x".repeat(MAX_TOKEN + 1);
        refused(bpe(json!({ long.as_str(): 0 }), json!([]), Value::Null), "bytes");
        refused(bpe(json!({}), json!([]), json!(long)), "continuing_subword_prefix");
        refused(json!({ "type": "Unigram", "unk_id": 0, "vocab": [[long, 0.0]] }), "bytes");
        let word = json!({
            "type": "WordPiece",
            "unk_token": "u",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": u64::MAX,
            "vocab": { "u": 0 },
        });
        refused(word, "max_input_chars_per_word");
    }

    #[test]
    fn a_short_token_cannot_stand_for_a_long_one() {
        let long = "x".repeat(MAX_SHARED + 1);
        refused(bpe(json!({ "a": 0, long: 0 }), json!([]), Value::Null), "same number");
        read(bpe(json!({ "a": 0, "b": 0 }), json!([]), Value::Null)).unwrap();
    }

    #[test]
    fn beginnings_are_counted_once() {
        assert_eq!(nodes(&mut ["abd", "abc", "a", "b", ""]), 5);
    }
}
