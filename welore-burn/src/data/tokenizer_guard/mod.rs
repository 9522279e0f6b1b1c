//! Loads tokenizer files that come from strangers.
//!
//! The tokenizers crate trusts a `tokenizer.json`: it indexes unchecked with numbers from the file,
//! runs its regular expressions without a limit, and repeats its replacements as often as it says.
//! So a file is parsed once, and each part is checked and rebuilt. Parts that only need sound
//! values (models, post-processors, most steps) are the crate's; those that need a limit while they
//! run (replacing, splitting, stripping) are here, with the crate's results. All calls into the
//! crate run in [`guarded`], which makes a panic an error.
//!
//! What is allowed is far above what published tokenizers have: at most 64 MB and four million JSON
//! values, a million tokens of 4096 bytes, 64 steps in a part. A text may grow eightfold.

mod added;
mod budget;
mod charsmap;
mod decoder;
mod expression;
mod matcher;
mod model;
mod normalizer;
mod pattern;
mod post_processor;
mod pre_tokenizer;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::{ModelWrapper, PostProcessorWrapper, TokenizerBuilder, TokenizerImpl};

pub(super) use self::budget::guarded;
pub use self::budget::is_guarded;
use self::budget::{bounded, short};
use self::decoder::Decoding;
use self::normalizer::Normalizing;
use self::pre_tokenizer::PreTokenizing;

/// The largest file: twice the largest one of a published model.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// The most JSON values in it, each of which takes up to a hundred bytes of memory.
const MAX_VALUES: usize = 4 << 20;

/// The most steps of a part, and the deepest nesting of their sequences.
const MAX_STEPS: usize = 64;
const MAX_DEPTH: usize = 8;

/// A tokenizer whose parts cannot panic or take without limits.
pub(crate) type GuardedTokenizer =
    TokenizerImpl<ModelWrapper, Normalizing, PreTokenizing, PostProcessorWrapper, Decoding>;

/// Why a tokenizer file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// It is not a tokenizer file.
    #[error("not a tokenizer: {0}")]
    Malformed(String),
    /// A part of it is wrong, or not supported.
    #[error("its {part} cannot be used: {reason}")]
    Part {
        /// Which one.
        part: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl Fault {
    fn of(part: &'static str, reason: impl Into<String>) -> Self {
        Self::Part { part, reason: reason.into() }
    }
}

/// Loads the content of a `tokenizer.json`. Its settings for truncating and padding are ignored:
/// some files keep those of their last use, which would cut texts short.
///
/// # Errors
///
/// [`Fault`].
pub(crate) fn load(content: &[u8]) -> Result<GuardedTokenizer, Fault> {
    if content.len() > MAX_BYTES {
        return Err(Fault::of("file", format!("it has more than {} MB", MAX_BYTES >> 20)));
    }
    // Commas in strings count as well, of which there are few.
    if content.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count() > MAX_VALUES {
        return Err(Fault::of("file", format!("it has more than {MAX_VALUES} entries")));
    }
    let malformed = |reason: &str| Fault::Malformed(short(reason));
    let root: Map<String, Value> =
        serde_json::from_slice(content).map_err(|error| malformed(&error.to_string()))?;
    bounded(0, || build(root)).map_err(|panic| malformed(&panic))?
}

fn build(mut root: Map<String, Value>) -> Result<GuardedTokenizer, Fault> {
    if root.get("version").is_some_and(|version| version != "1.0") {
        return Err(Fault::Malformed("its version is not 1.0".into()));
    }
    let mut part = |name: &str| root.remove(name).filter(|value| !value.is_null());
    let normalizer = part("normalizer").map(Normalizing::read).transpose()?;
    let pre_tokenizer = part("pre_tokenizer").map(PreTokenizing::read).transpose()?;
    let post_processor = part("post_processor").map(post_processor::read).transpose()?;
    let decoder = part("decoder").map(Decoding::read).transpose()?;
    let added = part("added_tokens").map(added::read).transpose()?.unwrap_or_default();
    let model = part("model").ok_or_else(|| Fault::Malformed("it has no model".into()))?;
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(model::read(model)?)
        .with_normalizer(normalizer)
        .with_pre_tokenizer(pre_tokenizer)
        .with_post_processor(post_processor)
        .with_decoder(decoder)
        .build()
        .map_err(|error| Fault::Malformed(short(&error.to_string())))?;
    added::add(&mut tokenizer, added)?;
    Ok(tokenizer)
}

/// A part, or a step of one, as the crate reads it.
fn read_as<T: DeserializeOwned>(part: &'static str, value: Value) -> Result<T, Fault> {
    serde_json::from_value(value).map_err(|error| Fault::of(part, short(&error.to_string())))
}

/// A field that has to be a text of at most so many bytes.
fn text_of<'a>(
    part: &'static str,
    value: &'a Value,
    name: &str,
    longest: usize,
) -> Result<&'a str, Fault> {
    let text = value.get(name).and_then(Value::as_str);
    let text = text.ok_or_else(|| Fault::of(part, format!("a step has no text `{name}`")))?;
    if text.len() > longest {
        return Err(Fault::of(part, format!("`{name}` has more than {longest} bytes")));
    }
    Ok(text)
}

/// The steps of a part, each with its type; `list` is where a sequence keeps its own.
fn steps(part: &'static str, value: Value, list: &str) -> Result<Vec<(String, Value)>, Fault> {
    let mut found = Vec::new();
    flatten(part, value, list, 0, &mut found)?;
    Ok(found)
}

fn flatten(
    part: &'static str,
    mut value: Value,
    list: &str,
    depth: usize,
    found: &mut Vec<(String, Value)>,
) -> Result<(), Fault> {
    let Some(kind) = value.get("type").and_then(Value::as_str).map(String::from) else {
        return Err(Fault::of(part, "a step has no type"));
    };
    if kind != "Sequence" {
        found.push((kind, value));
        return if found.len() > MAX_STEPS {
            Err(Fault::of(part, format!("it has more than {MAX_STEPS} steps")))
        } else {
            Ok(())
        };
    }
    if depth == MAX_DEPTH {
        return Err(Fault::of(part, "its sequences are nested too deeply"));
    }
    let Some(Value::Array(items)) = value.get_mut(list).map(Value::take) else {
        return Err(Fault::of(part, format!("a sequence has no `{list}`")));
    };
    for item in items {
        flatten(part, item, list, depth + 1, found)?;
    }
    Ok(())
}

/// A step of a type that is not known here.
fn unsupported(part: &'static str, kind: &str) -> Fault {
    Fault::of(part, format!("a step of type `{}` is not supported", short(kind)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(content: &[u8]) -> String {
        load(content).map(drop).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_tokenizer_file_is_said() {
        assert!(refused(b"").contains("not a tokenizer: EOF"));
        assert!(refused(b"[]").contains("not a tokenizer"));
        assert!(refused(b"{}").contains("it has no model"));
        assert!(refused(br#"{"version": "2.0", "model": {}}"#).contains("version"));
        assert!(refused("[".repeat(100_000).as_bytes()).contains("not a tokenizer"));
    }

    #[test]
    fn more_values_than_any_tokenizer_has_are_refused_before_they_are_parsed() {
        let many = format!("[{}0]", "0,".repeat(MAX_VALUES));
        assert!(refused(many.as_bytes()).contains("entries"));
        let large = vec![b' '; MAX_BYTES + 1];
        assert!(refused(&large).contains("64 MB"));
    }

    #[test]
    fn sequences_are_flattened_within_limits() {
        let nested = |depth: usize| {
            (0..depth).fold(
                json!({ "type": "NFC" }),
                |inner, _| json!({ "type": "Sequence", "normalizers": [inner, { "type": "NFD" }] }),
            )
        };
        let kinds: Vec<String> = steps("normalizer", nested(2), "normalizers")
            .unwrap()
            .into_iter()
            .map(|(kind, _)| kind)
            .collect();
        assert_eq!(kinds, ["NFC", "NFD", "NFD"]);
        assert!(steps("normalizer", nested(MAX_DEPTH + 1), "normalizers").is_err());
        let many = json!({ "type": "Sequence", "normalizers": vec![nested(0); MAX_STEPS + 1] });
        assert!(steps("normalizer", many, "normalizers").is_err());
    }
}
