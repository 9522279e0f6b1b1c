//! What turns tokens into text.

use serde_json::Value;
use tokenizers::decoders::strip::Strip;
use tokenizers::{Decoder, DecoderWrapper};

use super::budget::{self, Stopped};
use super::matcher::{Rewriting, check_growth};
use super::{Fault, read_as, steps, unsupported};

const PART: &str = "decoder";

/// The most characters to strip off a token.
const MAX_STRIPPED: usize = 4096;

/// A decoder with limits.
#[derive(Debug, Clone)]
pub(crate) struct Decoding(Vec<Step>);

#[derive(Debug, Clone)]
enum Step {
    Replace(Rewriting),
    Strip(Strip),
    Other(DecoderWrapper),
}

impl Decoding {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn read(value: Value) -> Result<Self, Fault> {
        let steps = steps(PART, value, "decoders")?;
        let steps = steps.into_iter().map(|(kind, value)| Step::read(&kind, value));
        let steps = steps.collect::<Result<Vec<Step>, Fault>>()?;
        let rewriting = steps.iter().filter_map(|step| match step {
            Step::Replace(rewriting) => Some(rewriting),
            _ => None,
        });
        check_growth(PART, rewriting)?;
        Ok(Self(steps))
    }
}

impl Decoder for Decoding {
    fn decode_chain(&self, mut tokens: Vec<String>) -> tokenizers::Result<Vec<String>> {
        let before = length(&tokens);
        let longest = before.saturating_add(budget::most_growth(before));
        for step in &self.0 {
            // Some of the crate's steps fail without tokens, and none makes one.
            if tokens.is_empty() {
                break;
            }
            budget::step()?;
            tokens = step.apply(tokens, longest)?;
            if length(&tokens) > longest {
                return Err(Stopped::too_long().into());
            }
        }
        Ok(tokens)
    }
}

fn length(tokens: &[String]) -> usize {
    tokens.iter().map(String::len).sum()
}

impl Step {
    fn read(kind: &str, value: Value) -> Result<Self, Fault> {
        match kind {
            "Replace" => return Ok(Self::Replace(Rewriting::read(PART, &value)?)),
            "Strip" => {
                let strip: Strip = read_as(PART, value)?;
                if strip.start.max(strip.stop) > MAX_STRIPPED {
                    let reason = format!("it strips more than {MAX_STRIPPED} characters");
                    return Err(Fault::of(PART, reason));
                }
                return Ok(Self::Strip(strip));
            }
            "BPEDecoder" | "ByteLevel" | "WordPiece" | "Metaspace" | "CTC" | "Fuse"
            | "ByteFallback" => {}
            _ => return Err(unsupported(PART, kind)),
        }
        let step: DecoderWrapper = read_as(PART, value)?;
        // The crate takes what has the fields of another type as that type.
        match step {
            DecoderWrapper::Sequence(_) | DecoderWrapper::Replace(_) | DecoderWrapper::Strip(_) => {
                Err(unsupported(PART, kind))
            }
            _ => Ok(Self::Other(step)),
        }
    }

    fn apply(&self, mut tokens: Vec<String>, longest: usize) -> tokenizers::Result<Vec<String>> {
        match self {
            Self::Replace(rewriting) => {
                let mut left = longest;
                for token in &mut tokens {
                    *token = rewriting.rewrite(token, left)?;
                    left = left.saturating_sub(token.len());
                }
                Ok(tokens)
            }
            Self::Strip(strip) => Ok(tokens.iter().map(|token| stripped(strip, token)).collect()),
            Self::Other(step) => step.decode_chain(tokens),
        }
    }
}

/// A token without so many of a character at its ends; the crate fails at one that is too short.
fn stripped(strip: &Strip, token: &str) -> String {
    let characters: Vec<char> = token.chars().collect();
    let is_stripped = |c: &&char| **c == strip.content;
    let start = characters.iter().take(strip.start).take_while(is_stripped).count();
    let stop = characters.iter().rev().take(strip.stop).take_while(is_stripped).count();
    let kept = characters.get(start..characters.len() - stop);
    kept.unwrap_or_default().iter().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn strip(start: usize, stop: usize) -> Value {
        json!({ "type": "Strip", "content": "e", "start": start, "stop": stop })
    }

    fn replace(pattern: Value, content: &str) -> Value {
        json!({ "type": "Replace", "pattern": pattern, "content": content })
    }

    fn sequence(decoders: Vec<Value>) -> Value {
        json!({ "type": "Sequence", "decoders": decoders })
    }

    fn decoded(value: Value, tokens: &[&str]) -> String {
        let tokens = tokens.iter().map(|token| token.to_string()).collect();
        Decoding::read(value).unwrap().decode(tokens).unwrap()
    }

    #[test]
    fn usual_steps_give_the_usual_text() {
        let llama = sequence(vec![
            replace(json!({ "String": "▁" }), " "),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
            json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }),
        ]);
        assert_eq!(decoded(llama.clone(), &["▁Mia", "▁", "<0xC3>", "<0xA9>"]), "Mia é");
        assert_eq!(decoded(llama, &[]), "");
    }

    #[test]
    fn short_tokens_are_stripped_whole() {
        for (start, stop, kept) in [(1, 1, "x"), (2, 2, "x"), (0, 0, "eexe"), (9, 9, "x")] {
            let expected = match (start, stop) {
                (1, 1) => "ex",
                _ => kept,
            };
            assert_eq!(decoded(strip(start, stop), &["eexe"]), expected, "{start} {stop}");
            let nothing = if start == 0 { "e" } else { "" };
            assert_eq!(decoded(strip(start, stop), &["e"]), nothing, "{start} {stop}");
            assert_eq!(decoded(strip(start, stop), &[""]), "");
        }
    }

    #[test]
    fn steps_do_not_fail_without_tokens() {
        assert_eq!(decoded(json!({ "type": "BPEDecoder", "suffix": "</w>" }), &[]), "");
    }

    #[test]
    fn what_multiplies_or_overflows_is_refused_or_ended() {
        let bomb = sequence(vec![replace(json!({ "Regex": "." }), "aaaa"); 20]);
        assert!(Decoding::read(bomb).unwrap_err().to_string().contains("times longer"));
        assert!(Decoding::read(strip(1, usize::MAX)).is_err());
        let hidden = json!({ "type": "Fuse", "decoders": [] });
        assert!(!matches!(Decoding::read(hidden), Ok(Decoding(steps)) if steps.len() != 1));
        // An empty suffix puts a space between all characters, each time.
        let spaced = sequence(vec![json!({ "type": "BPEDecoder", "suffix": "" }); 64]);
        let tokens = vec!["abc".repeat(100); 2];
        let ended = Decoding::read(spaced).unwrap().decode(tokens).unwrap_err();
        assert!(ended.to_string().contains("many times longer"), "{ended}");
    }
}
