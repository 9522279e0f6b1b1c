//! What changes a text before it is split.

use std::panic::resume_unwind;

use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use super::budget::{self, Stopped, short};
use super::matcher::{Rewriting, check_growth};
use super::{Fault, charsmap, read_as, steps, text_of, unsupported};

const PART: &str = "normalizer";

/// The longest text that is put in front.
const MAX_PREFIX: usize = 64;

/// A normalizer with limits.
#[derive(Debug, Clone)]
pub(crate) struct Normalizing(Vec<Step>);

#[derive(Debug, Clone)]
enum Step {
    Replace(Rewriting),
    Prepend(String),
    /// One of the crate's, and the factor by which it makes a text longer at most.
    Other(NormalizerWrapper, usize),
}

impl Normalizing {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn read(value: Value) -> Result<Self, Fault> {
        let steps = steps(PART, value, "normalizers")?;
        let steps = steps.into_iter().map(|(kind, value)| Step::read(&kind, value));
        let steps = steps.collect::<Result<Vec<Step>, Fault>>()?;
        let rewriting = steps.iter().filter_map(|step| match step {
            Step::Replace(rewriting) => Some(rewriting),
            _ => None,
        });
        check_growth(PART, rewriting)?;
        Ok(Self(steps))
    }

    fn apply(&self, text: &mut NormalizedString) -> Result<(), Stopped> {
        let before = text.len();
        let longest = before.saturating_add(budget::spare());
        for step in &self.0 {
            budget::step()?;
            step.apply(text, longest)?;
            if text.len() > longest {
                return Err(Stopped::too_long());
            }
        }
        budget::spend(text.len().saturating_sub(before));
        Ok(())
    }
}

impl Normalizer for Normalizing {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        // The crate drops errors here, and would go on with a text that is half normalized.
        if let Err(stopped) = self.apply(text) {
            resume_unwind(Box::new(stopped));
        }
        Ok(())
    }
}

impl Step {
    fn read(kind: &str, value: Value) -> Result<Self, Fault> {
        let growth = match kind {
            "Replace" => return Ok(Self::Replace(Rewriting::read(PART, &value)?)),
            "Prepend" => {
                return Ok(Self::Prepend(text_of(PART, &value, "prepend", MAX_PREFIX)?.into()));
            }
            "Precompiled" => {
                let map = text_of(PART, &value, "precompiled_charsmap", usize::MAX)?;
                charsmap::check(map)
                    .map_err(|reason| Fault::of(PART, format!("its charsmap is wrong: {reason}")))?
            }
            "NFKC" | "NFKD" | "Bert" | "BertNormalizer" => 12,
            "NFC" | "NFD" | "Lowercase" | "ByteLevel" => 4,
            "Strip" | "StripAccents" | "Nmt" => 1,
            _ => return Err(unsupported(PART, kind)),
        };
        let step: NormalizerWrapper = read_as(PART, value)?;
        // The crate takes what has the fields of another type as that type.
        match step {
            NormalizerWrapper::Precompiled(_) if kind != "Precompiled" => {
                Err(unsupported(PART, kind))
            }
            NormalizerWrapper::Sequence(_)
            | NormalizerWrapper::Replace(_)
            | NormalizerWrapper::Prepend(_) => Err(unsupported(PART, kind)),
            _ => Ok(Self::Other(step, growth)),
        }
    }

    fn apply(&self, text: &mut NormalizedString, longest: usize) -> Result<(), Stopped> {
        let failed = |error: tokenizers::Error| Stopped(short(&error.to_string()));
        match self {
            Self::Replace(rewriting) => {
                text.replace(rewriting.search(longest), &rewriting.content).map_err(failed)
            }
            Self::Prepend(_) if text.is_empty() => Ok(()),
            Self::Prepend(prefix) => {
                text.prepend(prefix);
                Ok(())
            }
            // Real texts do not come near what the factor allows.
            Self::Other(_, growth)
                if text.len().saturating_mul(*growth) > longest.saturating_mul(4) =>
            {
                Err(Stopped::too_long())
            }
            Self::Other(step, _) => step.normalize(text).map_err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::budget::guarded;
    use super::*;

    fn sequence(normalizers: Vec<Value>) -> Value {
        json!({ "type": "Sequence", "normalizers": normalizers })
    }

    fn replace(from: &str, to: &str) -> Value {
        json!({ "type": "Replace", "pattern": { "String": from }, "content": to })
    }

    fn normalized(value: Value, text: &str) -> Result<String, String> {
        let normalizer = Normalizing::read(value).map_err(|fault| fault.to_string())?;
        guarded(text.len(), || {
            let mut text = NormalizedString::from(text);
            normalizer.normalize(&mut text).map(|()| text.get().to_string())
        })
    }

    #[test]
    fn usual_steps_give_the_usual_text() {
        let llama = sequence(vec![json!({ "type": "Prepend", "prepend": "▁" }), replace(" ", "▁")]);
        assert_eq!(normalized(llama.clone(), "a b").unwrap(), "▁a▁b");
        assert_eq!(normalized(llama, "").unwrap(), "");
        assert_eq!(normalized(json!({ "type": "NFKC" }), "ﬁ").unwrap(), "fi");
    }

    #[test]
    fn what_multiplies_a_text_is_refused_or_ended() {
        let bomb = sequence(vec![replace(" ", "  "); 30]);
        assert!(normalized(bomb, "a b").unwrap_err().contains("times longer"));
        // Each alone is allowed, and a text that has nothing to replace passes.
        let large = sequence(vec![replace("a", "bbbb"), replace("b", "cccc"), replace("c", "dd")]);
        assert!(normalized(large.clone(), "x").is_ok());
        let ended = normalized(large, &"a".repeat(100_000)).unwrap_err();
        assert!(ended.contains("many times longer"), "{ended}");
    }

    #[test]
    fn the_growth_of_all_pieces_counts() {
        let prefix = json!({ "type": "Prepend", "prepend": "x".repeat(MAX_PREFIX) });
        let normalizer = Normalizing::read(prefix).unwrap();
        let ended = guarded(10_000, || {
            (0..10_000).try_for_each(|_| normalizer.normalize(&mut NormalizedString::from("a")))
        });
        assert!(ended.unwrap_err().contains("many times longer"));
    }

    #[test]
    fn a_type_cannot_hide_another_one() {
        for value in [
            json!({ "type": "Nmt", "pattern": { "Regex": "(a+)+$" }, "content": "" }),
            json!({ "type": "BertNormalizer", "normalizers": [] }),
            json!({ "type": "Bert", "pattern": { "String": "a" }, "content": "aa" }),
            json!({ "type": "Unheard", "prepend": "x" }),
            json!({ "prepend": "x" }),
            json!(3),
        ] {
            if let Ok(Normalizing(steps)) = Normalizing::read(value.clone()) {
                // The type counts, and other fields do not.
                assert!(
                    matches!(steps[..], [Step::Other(NormalizerWrapper::Nmt(_), 1)]),
                    "{value}"
                );
            }
        }
    }
}
