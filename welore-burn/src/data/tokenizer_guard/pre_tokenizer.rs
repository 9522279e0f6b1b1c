//! What splits a text before the model does.

use std::sync::Arc;

use serde_json::Value;
use tokenizers::pattern::Invert;
use tokenizers::{PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::matcher::Matcher;
use super::{Fault, budget, read_as, steps, unsupported};

const PART: &str = "pre-tokenizer";

/// The most steps of a kind that makes pieces longer.
const MAX_GROWING: usize = 2;

/// A pre-tokenizer with limits.
#[derive(Debug, Clone)]
pub(crate) struct PreTokenizing(Vec<Step>);

#[derive(Debug, Clone)]
enum Step {
    Split { matcher: Arc<Matcher>, behavior: SplitDelimiterBehavior, invert: bool },
    Other(PreTokenizerWrapper),
}

impl PreTokenizing {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn read(value: Value) -> Result<Self, Fault> {
        let steps = steps(PART, value, "pretokenizers")?;
        for growing in ["ByteLevel", "Metaspace"] {
            if steps.iter().filter(|(kind, _)| kind == growing).count() > MAX_GROWING {
                let reason = format!("it has more than {MAX_GROWING} steps of type {growing}");
                return Err(Fault::of(PART, reason));
            }
        }
        let steps = steps.into_iter().map(|(kind, value)| Step::read(&kind, value));
        Ok(Self(steps.collect::<Result<_, _>>()?))
    }
}

impl PreTokenizer for PreTokenizing {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        self.0.iter().try_for_each(|step| {
            budget::step()?;
            step.apply(text)
        })
    }
}

impl Step {
    fn read(kind: &str, mut value: Value) -> Result<Self, Fault> {
        match kind {
            "Split" => {
                let matcher = Arc::new(Matcher::read(PART, &value)?);
                let Some(invert) = value.get("invert").and_then(Value::as_bool) else {
                    return Err(Fault::of(PART, "a step does not say whether it is inverted"));
                };
                let behavior = value.get_mut("behavior").map(Value::take).unwrap_or_default();
                return Ok(Self::Split { matcher, behavior: read_as(PART, behavior)?, invert });
            }
            "FixedLength" => {
                if value.get("length").and_then(Value::as_u64) == Some(0) {
                    return Err(Fault::of(PART, "it makes pieces of no length"));
                }
            }
            "ByteLevel" | "Metaspace" | "BertPreTokenizer" | "CharDelimiterSplit" | "Delimiter"
            | "Whitespace" | "WhitespaceSplit" | "Punctuation" | "Digits" | "UnicodeScripts" => {}
            _ => return Err(unsupported(PART, kind)),
        }
        let step: PreTokenizerWrapper = read_as(PART, value)?;
        // The crate takes what has the fields of another type as that type.
        match step {
            PreTokenizerWrapper::Sequence(_) | PreTokenizerWrapper::Split(_) => {
                Err(unsupported(PART, kind))
            }
            _ => Ok(Self::Other(step)),
        }
    }

    fn apply(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        match self {
            Self::Split { matcher, behavior, invert: false } => {
                text.split(|_, piece| piece.split(matcher.search(), *behavior))
            }
            Self::Split { matcher, behavior, invert: true } => {
                text.split(|_, piece| piece.split(Invert(matcher.search()), *behavior))
            }
            Self::Other(step) => step.pre_tokenize(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokenizers::{OffsetReferential, OffsetType};

    use super::*;

    fn pieces(step: &impl PreTokenizer, text: &str) -> Vec<(String, (usize, usize))> {
        let mut text = PreTokenizedString::from(text);
        step.pre_tokenize(&mut text).unwrap();
        let pieces = text.get_splits(OffsetReferential::Original, OffsetType::Byte);
        pieces.into_iter().map(|(piece, offsets, _)| (piece.to_string(), offsets)).collect()
    }

    #[test]
    fn splitting_gives_what_the_crate_gives() {
        let patterns = [json!({ "String": " " }), json!({ "Regex": r"\s+|\d{1,3}|(?=e)" })];
        let behaviors =
            ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"];
        for pattern in patterns {
            for (behavior, invert) in behaviors.iter().flat_map(|b| [(b, false), (b, true)]) {
                let split = json!({
                    "type": "Split",
                    "pattern": pattern,
                    "behavior": behavior,
                    "invert": invert,
                });
                let ours = PreTokenizing::read(split.clone()).unwrap();
                let theirs: PreTokenizerWrapper = serde_json::from_value(split.clone()).unwrap();
                for text in ["", "e", "Mia has 12345  trees, é的 ", "   "] {
                    assert_eq!(pieces(&ours, text), pieces(&theirs, text), "{split} of {text:?}");
                }
            }
        }
    }

    #[test]
    fn what_would_panic_or_never_end_is_refused() {
        let endless = json!({
            "type": "Split",
            "pattern": { "Regex": "(a+)+$" },
            "behavior": "Isolated",
            "invert": false,
        });
        let metaspace = json!({ "type": "Metaspace", "replacement": "▁" });
        let many = vec![metaspace; MAX_GROWING + 1];
        for (value, problem) in [
            (endless, "(a+)+$"),
            (json!({ "type": "FixedLength", "length": 0 }), "no length"),
            (json!({ "type": "Sequence", "pretokenizers": many }), "Metaspace"),
            (json!({ "type": "Whitespace2" }), "Whitespace2"),
            (json!({ "type": "Split" }), "Regex"),
            (json!({}), "no type"),
        ] {
            let message = PreTokenizing::read(value).unwrap_err().to_string();
            assert!(message.contains(problem), "{message} instead of {problem}");
        }
    }
}
