//! SentencePiece BPE, `llama` in GGUF: LLaMA 2, Mistral, Gemma.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::super::error::GgufError;
use super::super::keys::{SCORES, SPACE_PREFIX};
use super::vocabulary::{Kind, SpecialTokens, Vocabulary};
use super::{Parts, steps};
use crate::ggml::GgufFile;
use crate::words::number_of;

/// Its name in files.
pub(super) const NAME: &str = "llama";

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
    let scores = file.needed(SCORES, file.numbers(SCORES)?)?;
    if scores.len() != vocabulary.len() {
        let tokens = number_of(vocabulary.len(), "token");
        let reason = format!("has length {} for {tokens}", scores.len());
        return Err(file.wrong(SCORES, reason));
    }
    if scores.iter().any(|score| score.is_nan()) {
        return Err(file.wrong(SCORES, "has an entry that is not a number".into()));
    }
    let merges = merges(vocabulary, scores)
        .map_err(|reason| GgufError::Tokenizer { path: file.path().into(), reason })?;
    let prefix = file.flag(SPACE_PREFIX)?.unwrap_or(true);
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
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(Parts {
        normalizer: normalizer(prefix),
        pre_tokenizer: Value::Null,
        decoder: json!({ "type": "Sequence", "decoders": decoders }),
        model,
        adds_bos: true,
    })
}

/// What spaces become; with `prefix`, one is put before a text.
fn normalizer(prefix: bool) -> Value {
    let first = json!({ "type": "Prepend", "prepend": SPACE });
    let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    let steps: Vec<Value> = prefix.then_some(first).into_iter().chain([spaces]).collect();
    json!({ "type": "Sequence", "normalizers": steps })
}

/// Whether the normalizer of a `tokenizer.json` puts a space before a text; `None` if it is not one
/// of SentencePiece's.
pub(super) fn space_prefix(found: &Value) -> Option<bool> {
    let found = steps(found, "normalizers");
    [true, false].into_iter().find(|prefix| steps(&normalizer(*prefix), "normalizers") == found)
}

/// Whether a pre-tokenizer leaves texts whole, where the normalizer has replaced their spaces. Gemma's
/// splits at spaces.
pub(super) fn splits_nothing(pre_tokenizer: &Value) -> bool {
    let at_spaces =
        |step: &Value| step["type"] == "Split" && step["pattern"] == json!({ "String": " " });
    steps(pre_tokenizer, "pretokenizers").into_iter().all(at_spaces)
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
        let mut ways: Vec<([u32; 2], Merge<'_>)> = Vec::new();
        for (left_count, [left, right], ids) in ways_to_merge(token, &pieces) {
            let lengths = (left_count, count - left_count);
            let score = scores[id as usize];
            ways.push((ids, Merge { left, right, score, lengths }));
        }
        bytes += ways.len() * token.len();
        if bytes > MOST_MERGES {
            return Err(format!("its tokens stand for more than {MOST_MERGES} bytes of merges"));
        }
        ways.sort_by_key(|(ids, _)| *ids);
        merges.extend(ways.into_iter().map(|(_, merge)| merge));
    }
    // A stable sort: equal merges stay in the order of the vocabulary.
    merges.sort_by(|a, b| {
        let by_score = b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
        by_score.then(b.lengths.cmp(&a.lengths))
    });
    Ok(merges.into_iter().map(|merge| json!([merge.left, merge.right])).collect())
}

/// The ways to merge a token from two pieces: the number of characters on the left, the two, and
/// their numbers.
fn ways_to_merge<'t>(
    token: &'t str,
    pieces: &HashMap<&str, u32>,
) -> impl Iterator<Item = (usize, [&'t str; 2], [u32; 2])> {
    token.char_indices().enumerate().skip(1).filter_map(move |(left_count, (cut, _))| {
        let (left, right) = token.split_at(cut);
        Some((left_count, [left, right], [*pieces.get(left)?, *pieces.get(right)?]))
    })
}

/// The scores that stand for the merges of a `tokenizer.json`: the earlier a token is merged, the
/// higher. The inverse of [`merges`].
///
/// llama.cpp has no list of merges: it merges any two pieces that are a token together. So the list
/// has to have all of them, and in the order of the tokens that they give. Only normal tokens count:
/// the text of others never gets that far.
///
/// # Errors
///
/// What keeps scores from standing for the merges.
pub(super) fn scores(
    tokens: &[(String, Kind)],
    merges: &[(String, String)],
) -> Result<Vec<f32>, String> {
    let normal = |(_, (_, kind)): &(usize, &(String, Kind))| *kind == Kind::Normal;
    let pieces: HashMap<&str, u32> = tokens
        .iter()
        .enumerate()
        .filter(normal)
        .map(|(id, (token, _))| (token.as_str(), id as u32))
        .collect();
    let mut ranks: HashMap<u32, usize> = HashMap::new();
    let mut listed: HashSet<[u32; 2]> = HashSet::new();
    for (left, right) in merges {
        let merged = [left.as_str(), right.as_str()].concat();
        let ids = [left, right, &merged].map(|token| pieces.get(token.as_str()).copied());
        let [Some(left), Some(right), Some(merged)] = ids else { continue };
        let next = ranks.len();
        let rank = *ranks.entry(merged).or_insert(next);
        if rank + 1 != ranks.len() {
            let token = &tokens[merged as usize].0;
            return Err(format!("merges that give `{token}` are not next to each other"));
        }
        listed.insert([left, right]);
    }
    for (_, (token, _)) in tokens.iter().enumerate().filter(normal) {
        if token.chars().count() > LONGEST {
            return Err(format!("a token has more than {LONGEST} characters"));
        }
        if let Some((_, [left, right], _)) =
            ways_to_merge(token, &pieces).find(|(_, _, ids)| !listed.contains(ids))
        {
            return Err(format!(
                "`{left}` and `{right}` are not merged, though `{token}` is a token"
            ));
        }
    }
    let last = ranks.len();
    let rank = |id: usize| ranks.get(&(id as u32)).copied().unwrap_or(last);
    Ok((0..tokens.len()).map(|id| -(rank(id) as f32)).collect())
}
