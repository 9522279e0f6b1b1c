//! Which regular expressions of a tokenizer are run.
//!
//! They are run by Oniguruma, which goes back over a text as often as an expression makes it. Its
//! limits count going back, but not reading ahead without it, and some of its operators leave a
//! match without an order. So an expression is parsed, and refused if it has an operator that
//! no published tokenizer needs, if it repeats what itself varies in length before something that
//! may fail, as `(a+)+$` does, or if it reads any text to its end before something may fail, as
//! `.*x` does.

use super::expression::{Node, parse};

/// The longest expression in bytes: lists of all letters have some thousand.
const LONGEST: usize = 16 << 10;

/// Repetitions from which on a thing may reach across any text.
const FAR: usize = 64;

/// Checks an expression, and gives the least number of characters that it matches.
///
/// # Errors
///
/// Why it is not run.
pub(super) fn check(source: &str) -> Result<usize, String> {
    if source.len() > LONGEST {
        return Err(format!("it has more than {LONGEST} bytes"));
    }
    let branches = parse(source)?;
    check_branches(&branches, false)?;
    Ok(span_of(&branches).0)
}

/// Checks branches, after which something may fail or not.
fn check_branches(branches: &[Vec<Node>], fallible_after: bool) -> Result<(), String> {
    for branch in branches {
        let mut fallible_after = fallible_after;
        for node in branch.iter().rev() {
            check_node(node, fallible_after)?;
            fallible_after |= is_fallible(node);
        }
    }
    Ok(())
}

fn check_node(node: &Node, fallible_after: bool) -> Result<(), String> {
    match node {
        Node::One { .. } | Node::Place => Ok(()),
        Node::Group(branches) => check_branches(branches, fallible_after),
        Node::Look(branches) => check_branches(branches, true),
        Node::Repeat { node, least, most } => {
            let (shortest, longest) = span(node);
            if fallible_after && *most > 1 && shortest < longest {
                return Err("it repeats what is itself repeated".into());
            }
            if fallible_after && *most > FAR && reach(node) == (true, true) {
                return Err("it may read the whole text again and again".into());
            }
            check_node(node, fallible_after || (*least > 1 && is_fallible(node)))
        }
    }
}

/// Whether a node may fail to match.
fn is_fallible(node: &Node) -> bool {
    match node {
        Node::One { .. } | Node::Place | Node::Look(_) => true,
        Node::Group(branches) => branches.iter().all(|branch| branch.iter().any(is_fallible)),
        Node::Repeat { node, least, .. } => *least > 0 && is_fallible(node),
    }
}

/// The least and most characters that a node matches.
fn span(node: &Node) -> (usize, usize) {
    match node {
        Node::One { .. } => (1, 1),
        Node::Place | Node::Look(_) => (0, 0),
        Node::Group(branches) => span_of(branches),
        Node::Repeat { node, least, most } => {
            let (shortest, longest) = span(node);
            (shortest.saturating_mul(*least), longest.saturating_mul(*most))
        }
    }
}

pub(super) fn span_of(branches: &[Vec<Node>]) -> (usize, usize) {
    let spans = branches.iter().map(|branch| {
        branch.iter().map(span).fold((0, 0), |sum: (usize, usize), next| {
            (sum.0.saturating_add(next.0), sum.1.saturating_add(next.1))
        })
    });
    spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or_default()
}

/// Whether a node can match a letter, and whether it can match what is between words.
fn reach(node: &Node) -> (bool, bool) {
    match node {
        Node::One { letter, gap } => (*letter, *gap),
        Node::Place | Node::Look(_) => (false, false),
        Node::Group(branches) => {
            branches.iter().flatten().map(reach).fold((false, false), |a, b| (a.0 | b.0, a.1 | b.1))
        }
        Node::Repeat { node, .. } => reach(node),
    }
}

#[cfg(test)]
mod tests {
    use onig::Regex;

    use super::*;

    /// How published tokenizers split and replace.
    const PUBLISHED: [&str; 24] = [
        // GPT-2, LLaMA 3, Qwen 2, Mistral Nemo, GPT-4 with possessive quantifiers, GPT-4o.
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|\s+",
        // DeepSeek's several, BLOOM, Kimi K2, numbers from their end.
        r"[\r\n]",
        r"\s?\p{L}+",
        r"\s?\p{P}+",
        r"[一-龥ࠀ-一가-퟿]+",
        r"[!-/:-~！-／：-～‘-‟　-。]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
        r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t)?|\p{N}{1,3}",
        r"\d{1,3}(?=(?:\d{3})*\b)",
        r"(?=(\d{3})+(?!\d))",
        r"(?<=[0-9])(?=[a-z])",
        r"[\p{P}\$\+<=>\^~\|]+",
        r"[0-9][0-9][0-9]",
        r"\w+|[^\w\s]+",
        // Replaced.
        r" {2,}",
        r"^\s+|\s+$",
        r"``|''",
        r"[[:space:]]+",
    ];

    #[test]
    fn published_expressions_pass() {
        for source in PUBLISHED {
            assert!(Regex::new(source).is_ok(), "{source}");
            check(source).unwrap_or_else(|reason| panic!("{source}: {reason}"));
        }
    }

    #[test]
    fn expressions_without_an_end_are_refused() {
        for (source, problem) in [
            (r"(a+)+$", "itself repeated"),
            (r"(a|aa)+$", "itself repeated"),
            (r"(?:(?:a?){20}b)*", "itself repeated"),
            (r"(?:\p{L}*)*(?!\S)", "itself repeated"),
            (r".*x", "whole text"),
            (r"[\s\S]*+\z", "whole text"),
            (r"(?s:.)+?x|.", "whole text"),
            (r".(?=.*+)", "whole text"),
            (r"(?!(?:e|[ ])*x)", "whole text"),
            (r"[^~]{1,900}~", "whole text"),
        ] {
            let reason = check(source).unwrap_err();
            assert!(reason.contains(problem), "{source}: {reason}");
        }
    }

    #[test]
    fn operators_that_no_tokenizer_needs_are_refused() {
        let deep = format!("{}a{}", "(".repeat(40), ")".repeat(40));
        for source in [
            r"a\Kb",
            r"(?=ab\K)",
            r"(a)\1",
            r"(?<n>a)\g<n>",
            r"\k<n>",
            r"(?>a)",
            r"(?~a)",
            r"(?(1)a|b)",
            r"(?{a})",
            r"(*FAIL)",
            r"(?#a)",
            r"(?x: a )",
            r"\Ga",
            r"\X",
            r"\y",
            r"(?<=a*)b",
            r"a{9999}",
            r"a{3,2}",
            r"*a",
            r"a???????????",
            r"(a",
            r"a)",
            r"[a",
            "\\",
            r"[[:no:]a]",
            r"\p{NoSuchThing}",
            r"\x{61 62}",
            deep.as_str(),
        ] {
            assert!(check(source).is_err(), "{source}");
        }
        assert!(check(&"a".repeat(LONGEST + 1)).is_err());
    }

    #[test]
    fn least_lengths_are_found() {
        for (source, least) in
            [("ab?", 1), (" {2,}", 2), ("a*", 0), ("abc|de", 2), (r"(?:ab){3}(?=c)", 6), ("", 0)]
        {
            assert_eq!(check(source), Ok(least), "{source}");
        }
    }
}
