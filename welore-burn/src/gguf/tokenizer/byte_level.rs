//! Byte-level BPE, `gpt2` in GGUF: LLaMA 3, Qwen, SmolLM, and most newer models.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::error::GgufError;
use super::super::keys::{MERGES, PRE};
use super::vocabulary::Vocabulary;
use super::{Parts, steps};
use crate::ggml::GgufFile;

/// Its name in files.
pub(super) const NAME: &str = "gpt2";

/// A way to split a text before merges, which llama.cpp knows by a name.
struct Splitting {
    pre_tokenizer: Value,
    normalizer: Value,
    /// Whether a piece that is itself a token is taken without merges.
    ignore_merges: bool,
    adds_bos: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pattern of Mistral's newer tokenizer.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pattern of GPT-4o's tokenizer, which Phi-4-mini has as well.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The pattern of ByteDance's Seed models.
const SEED: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The patterns that llama.cpp splits by, one after the other, if a file names `default`.
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// The names that are written. The others in [`Splitting::named`] split as one of these does.
const WRITTEN: [&str; 12] = [
    "gpt-2",
    "olmo",
    "smollm",
    "command-r",
    "llama-bpe",
    "smaug-bpe",
    "qwen2",
    "deepseek-r1-qwen",
    "seed-coder",
    "tekken",
    "gpt-4o",
    "default",
];

/// Those whose files of Hugging Face bring a text into a normal form first.
const NORMALIZED: [&str; 3] = ["qwen2", "olmo", "command-r"];

impl Splitting {
    fn named(name: &str) -> Option<Self> {
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let pieces = match name {
            "gpt-2" | "olmo" | "exaone4" => vec![bytes(true)],
            "smollm" | "starcoder" | "refact" | "command-r" => vec![digits, bytes(true)],
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "glm4" | "smaug-bpe" | "dbrx"
            | "chatglm-bpe" => {
                vec![split(LLAMA3), bytes(false)]
            }
            "qwen2" | "deepseek-r1-qwen" | "megrez" | "stablelm2" => {
                vec![split(QWEN2), bytes(false)]
            }
            "seed-coder" => vec![split(SEED), bytes(false)],
            "tekken" => vec![split(TEKKEN), bytes(false)],
            "gpt-4o" => vec![split(GPT4O), bytes(false)],
            "default" => DEFAULT.into_iter().map(split).chain([bytes(false)]).collect(),
            _ => return None,
        };
        let adds_bos = matches!(name, "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "tekken");
        let normalized = NORMALIZED.contains(&name);
        Some(Self {
            pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": pieces }),
            // Not in llama.cpp, but in the tokenizer that the model was trained with.
            normalizer: if normalized { json!({ "type": "NFC" }) } else { Value::Null },
            ignore_merges: adds_bos || name == "glm4",
            adds_bos,
        })
    }
}

/// The name of the way in which a `tokenizer.json` splits a text, from its normalizer, its
/// pre-tokenizer, and whether it takes whole pieces without merges; `None` if llama.cpp has none.
pub(super) fn splitting_name(
    normalizer: &Value,
    pre_tokenizer: &Value,
    ignore_merges: bool,
) -> Option<&'static str> {
    let normalizer = steps(normalizer, "normalizers");
    let pieces: Vec<Value> =
        steps(pre_tokenizer, "pretokenizers").into_iter().map(essence).collect();
    WRITTEN.into_iter().find(|name| {
        Splitting::named(name).is_some_and(|known| {
            let known_pieces = steps(&known.pre_tokenizer, "pretokenizers");
            known.ignore_merges == ignore_merges
                && steps(&known.normalizer, "normalizers") == normalizer
                && known_pieces.into_iter().map(essence).eq(pieces.iter().cloned())
        })
    })
}

/// What decides how a step splits: not the offsets that it reports.
fn essence(step: &Value) -> Value {
    let flag = |name: &str| step.get(name).cloned().unwrap_or(Value::Bool(true));
    match step["type"].as_str() {
        Some("ByteLevel") => json!(["ByteLevel", flag("add_prefix_space"), flag("use_regex")]),
        _ => step.clone(),
    }
}

/// The parts of a byte-level tokenizer.
pub(super) fn parts(file: &GgufFile, vocabulary: &Vocabulary<'_>) -> Result<Parts, GgufError> {
    let wrong = |reason| GgufError::Tokenizer { path: file.path().into(), reason };
    let Some(name) = file.text(PRE)? else {
        let reason = "`tokenizer.ggml.pre`, the way text is split, is missing; is the file old?";
        return Err(wrong(reason.into()));
    };
    let Some(splitting) = Splitting::named(name) else {
        return Err(wrong(format!("splitting text as `{name}` is not supported")));
    };
    let merges = file.needed(MERGES, file.texts(MERGES)?)?;
    let known: HashSet<&str> = vocabulary.iter().map(|(_, token)| token).collect();
    let pair = |merge: &String| {
        let refuse = |why: &str| {
            Err(file.wrong::<GgufError>(MERGES, format!("has an entry `{merge}`, {why}")))
        };
        let Some((left, right)) = split_merge(merge) else { return refuse("which is not a pair") };
        // The tokenizers crate panics if the merged token is longer than all that it knows.
        let merged = [left, right].concat();
        match [left, right, merged.as_str()].iter().all(|token| known.contains(token)) {
            true => Ok(json!([left, right])),
            false => refuse("whose tokens are not all in the vocabulary"),
        }
    };
    let merges = merges.iter().map(pair).collect::<Result<Vec<Value>, _>>()?;
    let mut model = json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": splitting.ignore_merges,
    });
    model["vocab"] = vocabulary.to_json();
    model["merges"] = Value::Array(merges);
    Ok(Parts {
        normalizer: splitting.normalizer,
        pre_tokenizer: splitting.pre_tokenizer,
        decoder: bytes(true),
        model,
        adds_bos: splitting.adds_bos,
    })
}

/// Bytes as printable characters; with `regex`, after splitting as GPT-2 does.
fn bytes(regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": regex,
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

/// The two tokens of a merge, which a space separates. The first may itself begin with a space.
pub(super) fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge[first..].find(' ')?;
    Some((&merge[..space], &merge[space + 1..]))
}
