//! The keys of PEFT's tables of ranks and scales, which are regular expressions.

use std::collections::{HashMap, HashSet};

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::Refusal;
use crate::escape::shortened;

/// The most keys of a table that are more than names.
const MOST_EXPRESSIONS: usize = 100;

/// The most characters of such a key.
const LONGEST: usize = 1000;

/// A table as it is in the file: the first key that matches counts, so their order is kept. No key is
/// there twice.
#[derive(Debug, Default)]
pub(super) struct Entries(Vec<(String, f64)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map of names and numbers")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
                let (mut entries, mut seen) = (Vec::new(), HashSet::new());
                while let Some((key, value)) = map.next_entry::<String, f64>()? {
                    if !seen.insert(key.clone()) {
                        return Err(M::Error::custom("a key is there twice"));
                    }
                    entries.push((key, value));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Such a table, to look names up in. Keys that are plain names, of which there may be one for each
/// matrix, are found without trying all.
#[derive(Debug, Default)]
pub(super) struct Table {
    names: HashMap<String, (usize, f64)>,
    expressions: Vec<(usize, Pattern, f64)>,
}

impl Table {
    /// Reads the keys.
    pub fn new(entries: Entries) -> Result<Self, Refusal> {
        let mut table = Self::default();
        for (place, (key, value)) in entries.0.into_iter().enumerate() {
            if !key.is_empty() && key.chars().all(is_of_name) {
                table.names.insert(key, (place, value));
            } else if key.chars().nth(LONGEST).is_some() {
                return Err(Refusal::Pattern(shortened(&key, LONGEST + 1).into_owned()));
            } else if table.expressions.len() < MOST_EXPRESSIONS {
                table.expressions.push((place, Pattern::new(&key)?, value));
            } else {
                return Err(Refusal::Pattern(key));
            }
        }
        Ok(table)
    }

    /// The value of the first key that matches a name.
    pub fn value(&self, name: &str) -> Option<f64> {
        let named = ends(name).filter_map(|end| self.names.get(end).copied());
        let expressed = self.expressions.iter().find(|(_, pattern, _)| pattern.matches(name));
        let expressed = expressed.map(|(place, _, value)| (*place, *value));
        named.chain(expressed).min_by_key(|(place, _)| *place).map(|(_, value)| value)
    }
}

/// A name, and what is behind each of its dots.
pub(super) fn ends(name: &str) -> impl Iterator<Item = &str> {
    std::iter::once(name).chain(name.match_indices('.').map(move |(at, _)| &name[at + 1..]))
}

/// The key that matches a name, and nothing else that a model has.
pub(super) fn key_of(name: &str) -> String {
    let mut key = String::with_capacity(name.len());
    for c in name.chars() {
        if !is_of_name(c) {
            key.push('\\');
        }
        key.push(c);
    }
    key
}

/// Whether a character stands for itself in a key, as a dot does here.
fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// A part of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Atom {
    /// This character.
    Char(char),
    /// Any character.
    Any,
    /// A digit.
    Digit,
}

impl Atom {
    fn has(self, c: char) -> bool {
        match self {
            Self::Char(own) => own == c,
            Self::Any => true,
            Self::Digit => c.is_ascii_digit(),
        }
    }
}

/// An expression of the kinds that such keys are made of: names, dots, `\d`, and repetitions of these.
/// It matches the end of a name, from its beginning or from behind a dot, as in PEFT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// Parts, how often each has to be there, and whether it may be there more often.
    atoms: Vec<(Atom, bool, bool)>,
    from_start: bool,
}

impl Pattern {
    /// Reads a key.
    pub fn new(text: &str) -> Result<Self, Refusal> {
        let unknown = || Refusal::Pattern(text.into());
        let from_start = text.starts_with('^');
        let body = text.strip_prefix('^').unwrap_or(text);
        let (mut atoms, mut chars) = (Vec::new(), body.chars());
        while let Some(c) = chars.next() {
            let atom = match c {
                '.' => Atom::Any,
                '\\' => match chars.next() {
                    Some('d') => Atom::Digit,
                    Some(c) if !c.is_alphanumeric() => Atom::Char(c),
                    _ => return Err(unknown()),
                },
                '$' if chars.as_str().is_empty() => break,
                '*' | '+' => {
                    let last: &mut (Atom, bool, bool) = atoms.last_mut().ok_or_else(unknown)?;
                    if last.2 {
                        return Err(unknown());
                    }
                    (last.1, last.2) = (c == '+', true);
                    continue;
                }
                c if is_of_name(c) => Atom::Char(c),
                _ => return Err(unknown()),
            };
            atoms.push((atom, true, false));
        }
        match atoms.is_empty() {
            true => Err(unknown()),
            false => Ok(Self { atoms, from_start }),
        }
    }

    /// Whether it matches a name. All states are followed at once, so no name takes long.
    pub fn matches(&self, name: &str) -> bool {
        let mut states = vec![false; self.atoms.len() + 1];
        states[0] = true;
        self.skip_optional(&mut states);
        for c in name.chars() {
            let mut next = vec![false; states.len()];
            next[0] = c == '.' && !self.from_start;
            for (at, (atom, _, repeats)) in self.atoms.iter().enumerate() {
                if states[at] && atom.has(c) {
                    next[at + 1] = true;
                }
                // Having been there once, it may be there again.
                if states[at + 1] && *repeats && atom.has(c) {
                    next[at + 1] = true;
                }
            }
            self.skip_optional(&mut next);
            states = next;
        }
        states[self.atoms.len()]
    }

    fn skip_optional(&self, states: &mut [bool]) {
        for (at, (_, needed, _)) in self.atoms.iter().enumerate() {
            if states[at] && !needed {
                states[at + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "model.layers.11.self_attn.q_proj";

    #[test]
    fn keys_match_the_end_of_a_name_from_behind_a_dot() {
        for (pattern, is_match) in [
            ("q_proj", true),
            ("self_attn.q_proj", true),
            (r"self_attn\.q_proj", true),
            ("model.layers.11.self_attn.q_proj", true),
            ("^model.layers.11.self_attn.q_proj$", true),
            (r"layers\.\d+\.self_attn\.q_proj", true),
            (".*q_proj", true),
            ("model.*_proj", true),
            (r"layers\.\d\.self_attn\.q_proj", false),
            ("proj", false),
            ("^self_attn.q_proj", false),
            ("self_attn", false),
            ("model.layers.1.self_attn.q_proj", false),
            ("q_proj.x", false),
            ("x*q_proj", true),
            ("x+q_proj", false),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().matches(NAME), is_match, "{pattern}");
        }
    }

    #[test]
    fn the_first_key_that_matches_counts() {
        let table = |text: &str| Table::new(serde_json::from_str(text).unwrap()).unwrap();
        let both = table(r#"{"self_attn.q_proj": 2, "q_proj": 3, "model.*": 4}"#);
        assert_eq!(both.value(NAME), Some(2.0));
        assert_eq!(both.value("model.layers.0.x.q_proj"), Some(3.0));
        assert_eq!(both.value("model.layers.0.x.k_proj"), Some(4.0));
        assert_eq!(both.value("lm_head"), None);
        let turned = table(r#"{"model.*": 4, "self_attn.q_proj": 2}"#);
        assert_eq!(turned.value(NAME), Some(4.0));
    }

    #[test]
    fn tables_that_are_ambiguous_or_endless_are_refused() {
        let read = |text: &str| serde_json::from_str::<Entries>(text);
        assert!(read(r#"{"q_proj": 2, "k_proj": 2}"#).is_ok());
        assert!(read(r#"{"q_proj": 2, "q_proj": 3}"#).is_err());
        let table = |text: &str| Table::new(read(text).unwrap());
        let long = "x*".repeat(LONGEST);
        let refused = table(&format!(r#"{{"{long}": 1}}"#)).unwrap_err();
        assert!(matches!(refused, Refusal::Pattern(key) if key.ends_with("x*…")), "{long}");
        let many: Vec<String> = (0..=MOST_EXPRESSIONS).map(|n| format!(r#""x*{n}": 1"#)).collect();
        assert!(table(&format!("{{{}}}", many[1..].join(","))).is_ok());
        assert!(table(&format!("{{{}}}", many.join(","))).is_err());
    }

    #[test]
    fn every_name_has_a_key() {
        for name in ["model.layers.0.q_proj", "a(b*c.d", "x$", r"a\b", "{}", "a b"] {
            let pattern = Pattern::new(&key_of(name)).unwrap();
            assert!(pattern.matches(name) && !pattern.matches("other"), "{name}");
        }
        assert_eq!(key_of("model.layers.0.q_proj"), "model.layers.0.q_proj");
    }

    #[test]
    fn other_expressions_are_refused() {
        for pattern in ["(q|k)_proj", "[qk]_proj", r"\w+", "q{2}", "a?", "*a", "a**", "", "^", r"\"]
        {
            assert_eq!(Pattern::new(pattern), Err(Refusal::Pattern(pattern.into())), "{pattern}");
        }
    }
}
