//! Which matrices `target_modules` and `exclude_modules` name, as PEFT decides it.

use std::cell::Cell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use onig::{MatchParam, Regex, RegexOptions, SearchOptions, Syntax};
use serde_json::Value;

use super::error::Refusal;
use super::pattern::ends;

/// The most bytes of an expression.
const LONGEST: usize = 16 << 10;

/// The most groups of an expression. Oniguruma's parser calls itself for each.
const MOST_GROUPS: usize = 256;

/// How often a match goes back, and the most places that it may go back to.
const MAX_RETRIES: u32 = 100_000;
const MAX_STACK: u32 = 1 << 16;

/// How long an expression may take for all names together.
const PATIENCE: Duration = Duration::from_secs(10);

/// What such a field has to be.
const EXPECTED: &str = "a list of names, or a regular expression";

/// The modules that a field names.
#[derive(Debug)]
pub(super) enum Modules {
    /// All linear layers; the tensors say which ones.
    All,
    /// Those with a name of the list, or one that ends with a dot and such a name.
    Listed(HashSet<String>),
    /// Those whose whole name an expression matches.
    Matched(Expression),
}

impl Modules {
    /// Reads `target_modules`; `None` if it is null.
    pub fn targets(value: &Value) -> Result<Option<Self>, Refusal> {
        match value.as_str() {
            Some(text) if text.eq_ignore_ascii_case("all-linear") => Ok(Some(Self::All)),
            _ => Self::read("target_modules", value),
        }
    }

    /// Reads `exclude_modules`; `None` if it is null.
    pub fn excluded(value: &Value) -> Result<Option<Self>, Refusal> {
        Self::read("exclude_modules", value)
    }

    fn read(field: &'static str, value: &Value) -> Result<Option<Self>, Refusal> {
        match value {
            Value::Null => Ok(None),
            Value::String(source) => Expression::new(source).map(Self::Matched).map(Some),
            _ => Ok(Some(Self::Listed(texts(field, EXPECTED, value)?))),
        }
    }

    /// Whether a matrix is among them.
    pub fn have(&self, name: &str) -> Result<bool, Refusal> {
        match self {
            Self::All => Ok(true),
            Self::Listed(names) => Ok(ends(name).any(|end| names.contains(end))),
            Self::Matched(expression) => expression.matches(name),
        }
    }
}

/// The texts of a list.
pub(super) fn texts(
    field: &'static str,
    expected: &'static str,
    value: &Value,
) -> Result<HashSet<String>, Refusal> {
    let text = |value: &Value| value.as_str().map(String::from);
    let texts = value.as_array().and_then(|values| values.iter().map(text).collect());
    texts.ok_or(Refusal::Malformed { field, expected })
}

/// A regular expression of Python for whole names.
#[derive(Debug)]
pub(super) struct Expression {
    source: String,
    regex: Regex,
    spent: Cell<Duration>,
}

impl Expression {
    fn new(source: &str) -> Result<Self, Refusal> {
        let unread = || Refusal::Pattern(source.into());
        // `(*` calls functions of Oniguruma, and is an error in Python.
        let is_read = source.len() <= LONGEST
            && source.matches('(').count() <= MOST_GROUPS
            && !source.contains("(*");
        if !is_read {
            return Err(unread());
        }
        let (whole, options) = (format!(r"(?:{source})\Z"), RegexOptions::REGEX_OPTION_NONE);
        let regex = Regex::with_options(&whole, options, Syntax::python());
        let regex = regex.map_err(|_| unread())?;
        Ok(Self { source: source.into(), regex, spent: Cell::default() })
    }

    fn matches(&self, name: &str) -> Result<bool, Refusal> {
        let endless = || Refusal::Pattern(self.source.clone());
        let begun = Instant::now();
        let mut limits = MatchParam::default();
        limits.set_match_stack_limit(MAX_STACK);
        limits.set_retry_limit_in_match(MAX_RETRIES);
        let options = SearchOptions::SEARCH_OPTION_NONE;
        let found = self.regex.match_with_param(name, 0, options, None, limits);
        let found = found.map_err(|_| endless())?;
        self.spent.set(self.spent.get() + begun.elapsed());
        match self.spent.get() > PATIENCE {
            true => Err(endless()),
            false => Ok(found.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAME: &str = "model.layers.11.self_attn.q_proj";

    #[test]
    fn expressions_match_whole_names_as_in_python() {
        for (source, is_match) in [
            (NAME, true),
            (r".*\.(q|k)_proj", true),
            (r".*(?:q_proj|v_proj)$", true),
            (r"model\.layers\.\d+\.self_attn\.[qkv]_proj", true),
            (r"(?:.*?(?:self_attn|mlp).*?(?:k_proj|q_proj).*?)|(?:\bmodel\.x{1,})", true),
            (r"(?!.*lm_head).*", true),
            (r"(?!.*q_proj).*", false),
            ("model|model.*", true),
            ("(?i)MODEL.*", true),
            (r"(?P<all>.*)_proj", true),
            ("q_proj", false),
            (".*q", false),
            ("", false),
        ] {
            let modules = Modules::targets(&json!(source)).unwrap().unwrap();
            assert_eq!(modules.have(NAME), Ok(is_match), "{source}");
        }
        assert_eq!(Modules::targets(&json!("All-Linear")).unwrap().unwrap().have(NAME), Ok(true));
    }

    #[test]
    fn expressions_that_are_broken_or_endless_are_refused() {
        let (long, deep) = ("x".repeat(LONGEST + 1), "(".repeat(1000) + &")".repeat(1000));
        for source in ["(", "[q", "*", "(*FAIL)", long.as_str(), deep.as_str()] {
            let refused = Modules::targets(&json!(source)).unwrap_err();
            assert!(matches!(refused, Refusal::Pattern(_)), "{source}");
        }
        let endless = Modules::targets(&json!("(a+)+$")).unwrap().unwrap();
        let refused = endless.have(&("a".repeat(400) + "b")).unwrap_err();
        assert_eq!(refused, Refusal::Pattern("(a+)+$".into()));
    }
}
