//! SentencePiece BPE, `llama` in GGUF: LLaMA 2, Mistral.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::{Value, json};

use super::super::error::GgufError;
use super::Parts;
use super::vocabulary::{Kind, SpecialTokens, Vocabulary};
use crate::ggml::GgufFile;
use crate::words::number_of;

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// The most characters of a token, because each is cut at every position.
const LONGEST: usize = 512;

/// The most bytes of all merges together: tokens `a`, `aa`, `aaa` and so on stand for as many as
/// the square of their number.
const MOST_MERGES: usize = 1 << 26;

/// The parts of a SentencePiece tokenizer.
pub(super) fn parts(
    file: &GgufFile,
    vocabulary: &Vocabulary<'_>,
    special: &SpecialTokens,
) -> Result<Parts, GgufError> {
    let key = "tokenizer.ggml.scores";
    let scores = file.needed(key, file.numbers(key)?)?;
    if scores.len() != vocabulary.len() {
        let tokens = number_of(vocabulary.len(), "token");
        let reason = format!("has length {} for {tokens}", scores.len());
        return Err(file.wrong(key, reason));
    }
    if scores.iter().any(|score| score.is_nan()) {
        return Err(file.wrong(key, "has an entry that is not a number".into()));
    }
    let merges = merges(vocabulary, scores)
        .map_err(|reason| GgufError::Tokenizer { path: file.path().into(), reason })?;
    let prefix = file.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let has_bytes = vocabulary.iter().any(|(id, _)| vocabulary.kind(id) == Kind::Byte);
    let mut model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": special.unknown.and_then(|id| vocabulary.get(id)),
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": has_bytes,
        "ignore_merges": false,
    });
    model["vocab"] = vocabulary.to_json();
    model["merges"] = merges;
    let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let mut normalizers = vec![spaces];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": SPACE }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(Parts {
        normalizer: json!({ "type": "Sequence", "normalizers": normalizers }),
        pre_tokenizer: Value::Null,
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        model,
        adds_bos: true,
    })
}

/// Two tokens that can be merged into one, with the score of that one.
struct Merge<'a> {
    left: &'a str,
    right: &'a str,
    score: f32,
    /// Characters in each of the two.
    lengths: (usize, usize),
}

/// The merges that scores stand for, as transformers recovers them: the higher the score of the
/// merged token, the earlier the merge. An error if a token is too long, or if there are too many
/// merges.
fn merges(vocabulary: &Vocabulary<'_>, scores: &[f32]) -> Result<Value, String> {
    // SentencePiece merges neither bytes nor anything that is not text.
    let pieces: HashMap<&str, u32> = vocabulary
        .iter()
        .filter(|(id, _)| matches!(vocabulary.kind(*id), Kind::Normal | Kind::UserDefined))
        .map(|(id, token)| (token, id))
        .collect();
    let mut merges: Vec<Merge<'_>> = Vec::new();
    let mut bytes = 0;
    for (id, token) in vocabulary.iter() {
        if pieces.get(token) != Some(&id) {
            continue;
        }
        let count = token.chars().count();
        if count > LONGEST {
            return Err(format!("a token has more than {LONGEST} characters"));
        }
        let mut ways: Vec<(u32, u32, Merge<'_>)> = Vec::new();
        for (left_count, (cut, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(cut);
            if let (Some(a), Some(b)) = (pieces.get(left), pieces.get(right)) {
                let lengths = (left_count, count - left_count);
                let score = scores[id as usize];
                ways.push((*a, *b, Merge { left, right, score, lengths }));
            }
        }
        bytes += ways.len() * token.len();
        if bytes > MOST_MERGES {
            return Err(format!("its tokens stand for more than {MOST_MERGES} bytes of merges"));
        }
        ways.sort_by_key(|(a, b, _)| (*a, *b));
        merges.extend(ways.into_iter().map(|(_, _, merge)| merge));
    }
    // A stable sort: equal merges stay in the order of the vocabulary.
    merges.sort_by(|a, b| {
        let by_score = b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
        by_score.then(b.lengths.cmp(&a.lengths))
    });
    Ok(merges.into_iter().map(|merge| json!([merge.left, merge.right])).collect())
}
