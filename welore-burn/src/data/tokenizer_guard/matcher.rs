//! Finds what is split at or replaced, with limits on time and memory.

use std::ffi::c_ulong;
use std::sync::Arc;

use onig::{MatchParam, Regex, Region, SearchOptions};
use serde_json::Value;
use tokenizers::pattern::Pattern;
use tokenizers::{Offsets, Result as TokenizersResult};

use super::budget::{self, Stopped, short};
use super::{Fault, pattern, text_of};

/// The longest text that is searched for, and the longest that is put in its place.
const MAX_NEEDLE: usize = 4096;
const MAX_CONTENT: usize = 256;

/// How often a search goes back in one match, as by default, and over all places where a match
/// may begin.
const MAX_RETRIES: usize = 10_000_000;
const MAX_RETRIES_PER_BYTE: usize = 64;

/// The most places that a match may go back to, of 32 bytes each.
const MAX_STACK: u32 = 8 << 20;

/// What a step looks for.
#[derive(Debug)]
pub(super) struct Matcher {
    find: Find,
    /// The least bytes of a match.
    least: usize,
}

#[derive(Debug)]
enum Find {
    Text(String),
    Regex(Regex),
}

impl Matcher {
    /// Reads the `pattern` of a step.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn read(part: &'static str, step: &Value) -> Result<Self, Fault> {
        let pattern = step.get("pattern").unwrap_or(&Value::Null);
        if pattern.get("String").is_some() {
            let text = text_of(part, pattern, "String", MAX_NEEDLE)?;
            if text.is_empty() {
                return Err(Fault::of(part, "a step looks for an empty text"));
            }
            return Ok(Self { least: text.len(), find: Find::Text(text.into()) });
        }
        let source = text_of(part, pattern, "Regex", usize::MAX)?;
        let wrong =
            |reason: &str| Fault::of(part, format!("it runs `{}`: {reason}", short(source)));
        let least = pattern::check(source).map_err(|reason| wrong(&reason))?;
        let regex = Regex::new(source).map_err(|error| wrong(error.description()))?;
        Ok(Self { find: Find::Regex(regex), least })
    }

    /// Calls `found` with the beginning and end of each match, as the tokenizers crate finds them.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if it takes too long, and what `found` says.
    pub fn each(
        &self,
        text: &str,
        mut found: impl FnMut(usize, usize) -> Result<(), Stopped>,
    ) -> Result<(), Stopped> {
        match &self.find {
            Find::Text(needle) => {
                budget::step()?;
                text.match_indices(needle.as_str())
                    .try_for_each(|(start, same)| found(start, start + same.len()))
            }
            Find::Regex(regex) => search(regex, text, found),
        }
    }

    /// The same as a pattern of the tokenizers crate.
    pub fn search(&self) -> Search<'_> {
        Search { matcher: self, room: None }
    }
}

fn search(
    regex: &Regex,
    text: &str,
    mut found: impl FnMut(usize, usize) -> Result<(), Stopped>,
) -> Result<(), Stopped> {
    let mut region = Region::new();
    let (mut from, mut last_end) = (0, None);
    while from <= text.len() {
        budget::step()?;
        region.clear();
        let (options, limits) = (SearchOptions::SEARCH_OPTION_NONE, limits(text.len() - from));
        let hit =
            regex.search_with_param(text, from, text.len(), options, Some(&mut region), limits);
        let hit = hit.map_err(|error| {
            Stopped(format!("a regular expression does not end ({})", error.description()))
        })?;
        let Some((start, end)) = hit.and_then(|_| region.pos(0)) else { break };
        // Not an empty match right after another one.
        if start == end && last_end == Some(end) {
            from += text[from..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        if start > end || end < from {
            return Err(Stopped("a regular expression matches backwards".into()));
        }
        from = end;
        last_end = Some(end);
        found(start, end)?;
    }
    Ok(())
}

/// The limits of a search through so many bytes.
fn limits(bytes: usize) -> MatchParam {
    let in_match = u32::try_from(MAX_RETRIES).unwrap_or(u32::MAX);
    let in_search = bytes.saturating_mul(MAX_RETRIES_PER_BYTE).saturating_add(MAX_RETRIES);
    let in_search = c_ulong::try_from(in_search).unwrap_or(c_ulong::MAX);
    let mut limits = MatchParam::default();
    limits.set_match_stack_limit(MAX_STACK);
    limits.set_retry_limit_in_match(in_match);
    // SAFETY: `limits` owns what the pointer names, which is valid until it is dropped.
    unsafe {
        onig_sys::onig_set_retry_limit_in_search_of_match_param(limits.as_raw(), in_search);
    }
    limits
}

/// A search as a pattern of the tokenizers crate.
pub(super) struct Search<'a> {
    matcher: &'a Matcher,
    /// How long a replacement is, and how long the text may become with it.
    room: Option<(usize, usize)>,
}

impl Pattern for Search<'_> {
    fn find_matches(&self, inside: &str) -> TokenizersResult<Vec<(Offsets, bool)>> {
        if inside.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let (mut pieces, mut last, mut length) = (Vec::new(), 0, inside.len());
        self.matcher.each(inside, |start, end| {
            if last != start {
                pieces.push(((last, start), false));
            }
            pieces.push(((start, end), true));
            last = end;
            let Some((replacement, longest)) = self.room else { return Ok(()) };
            length = length - (end - start) + replacement;
            if length > longest { Err(Stopped::too_long()) } else { Ok(()) }
        })?;
        if last != inside.len() {
            pieces.push(((last, inside.len()), false));
        }
        Ok(pieces)
    }
}

/// A step that replaces what it finds.
#[derive(Debug, Clone)]
pub(super) struct Rewriting {
    matcher: Arc<Matcher>,
    /// What it puts in its place.
    pub content: String,
}

impl Rewriting {
    /// Reads a step.
    ///
    /// # Errors
    ///
    /// [`Fault`].
    pub fn read(part: &'static str, step: &Value) -> Result<Self, Fault> {
        let content = text_of(part, step, "content", MAX_CONTENT)?.into();
        Ok(Self { matcher: Arc::new(Matcher::read(part, step)?), content })
    }

    /// The factor by which it makes a text longer at most.
    fn growth(&self) -> usize {
        match self.matcher.least {
            // Between all characters.
            0 => 1 + 2 * self.content.len(),
            least => self.content.len().div_ceil(least).max(1),
        }
    }

    /// What it replaces, as long as the text does not become longer than `longest`.
    pub fn search(&self, longest: usize) -> Search<'_> {
        Search { matcher: &self.matcher, room: Some((self.content.len(), longest)) }
    }

    /// The text with its replacements.
    ///
    /// # Errors
    ///
    /// [`Stopped`].
    pub fn rewrite(&self, text: &str, longest: usize) -> Result<String, Stopped> {
        let mut rewritten = String::with_capacity(text.len());
        if text.is_empty() {
            return Ok(rewritten);
        }
        let mut last = 0;
        self.matcher.each(text, |start, end| {
            rewritten.push_str(&text[last..start]);
            rewritten.push_str(&self.content);
            last = end;
            if rewritten.len() > longest { Err(Stopped::too_long()) } else { Ok(()) }
        })?;
        rewritten.push_str(&text[last..]);
        Ok(rewritten)
    }
}

/// Refuses steps that together make any text much longer.
///
/// # Errors
///
/// [`Fault`].
pub(super) fn check_growth<'a>(
    part: &'static str,
    steps: impl Iterator<Item = &'a Rewriting>,
) -> Result<(), Fault> {
    const MOST: usize = 64;
    let growth = steps.map(Rewriting::growth).fold(1, usize::saturating_mul);
    if growth > MOST {
        return Err(Fault::of(part, format!("it makes a text up to {growth} times longer")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokenizers::normalizers::Replace;
    use tokenizers::{Decoder, NormalizedString, Normalizer};

    use super::*;

    fn rewriting(pattern: Value, content: &str) -> Rewriting {
        Rewriting::read("decoder", &json!({ "pattern": pattern, "content": content })).unwrap()
    }

    #[test]
    fn replacing_gives_what_the_crate_gives() {
        let texts = ["", " ", "a", "aaa  b é 的 aa", "  x\n\n y 12345 ", "ab".repeat(50).as_str()]
            .map(String::from);
        for pattern in [
            json!({ "String": "a" }),
            json!({ "String": "aa" }),
            json!({ "String": "." }),
            json!({ "Regex": "a*" }),
            json!({ "Regex": r"\s+" }),
            json!({ "Regex": r"\d{1,3}(?=(?:\d{3})*\b)" }),
            json!({ "Regex": r"(?<=a)" }),
            json!({ "Regex": r"\b" }),
        ] {
            let ours = rewriting(pattern.clone(), "→");
            let theirs = json!({ "type": "Replace", "pattern": pattern, "content": "→" });
            let theirs: Replace = serde_json::from_value(theirs).unwrap();
            let rewritten = texts.clone().map(|text| ours.rewrite(&text, 9999).unwrap());
            let expected = theirs.decode_chain(texts.to_vec()).unwrap();
            assert_eq!(rewritten.to_vec(), expected, "{pattern}");
            for text in &texts {
                let mut normalized = NormalizedString::from(text.as_str());
                normalized.replace(ours.search(9999), &ours.content).unwrap();
                let mut expected = NormalizedString::from(text.as_str());
                theirs.normalize(&mut expected).unwrap();
                assert_eq!(normalized, expected, "{pattern} in {text:?}");
            }
        }
    }

    #[test]
    fn replacing_ends_before_a_text_is_too_long() {
        let doubling = rewriting(json!({ "String": "a" }), "aa");
        assert!(doubling.rewrite("aaaa", 8).is_ok());
        assert!(doubling.rewrite("aaaaaaaa", 8).is_err());
        let mut normalized = NormalizedString::from("aaaaaaaa");
        assert!(normalized.replace(doubling.search(8), "aa").is_err());
        let both = vec![doubling; 7];
        assert!(check_growth("decoder", both[..6].iter()).is_ok());
        assert!(check_growth("decoder", both.iter()).is_err());
    }

    #[test]
    fn searches_that_go_back_too_often_are_ended() {
        // Made without the check of expressions, which would refuse it.
        let regex = Regex::new("(a+)+$").unwrap();
        let text = format!("{}!", "a".repeat(64));
        let stopped = search(&regex, &text, |_, _| Ok(())).unwrap_err();
        assert!(stopped.to_string().contains("does not end"), "{stopped}");
    }
}
