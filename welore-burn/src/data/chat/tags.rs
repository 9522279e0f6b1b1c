//! `{% generation %}`, with which templates of transformers say what the assistant writes.

use std::ops::Range;

/// Characters that Unicode keeps for such a use within a program.
const BEGIN: char = '\u{fdd0}';
const END: char = '\u{fdd1}';

/// A template without tags of `generation`: in their place are scopes, which is what the tags are beside their
/// meaning. With `marked`, they write marks around their text. `None` if the template has no such tag.
pub(super) fn without_tags(source: &str, marked: bool) -> Option<String> {
    let (mut out, mut rest, mut found) = (String::new(), source, false);
    while let Some(start) = rest.find("{%") {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        match Tag::read(rest) {
            Some(tag) => {
                tag.write(&mut out, marked);
                rest = tag.rest;
                found = true;
            }
            None => {
                out.push_str("{%");
                rest = &rest[2..];
            }
        }
    }
    out.push_str(rest);
    found.then_some(out)
}

/// A tag, with the signs that say which white space around it is kept.
struct Tag<'a> {
    begins: bool,
    before: &'a str,
    after: &'a str,
    /// What follows it.
    rest: &'a str,
}

impl<'a> Tag<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (before, text) = signed(text.strip_prefix("{%")?);
        let text = text.trim_start();
        let (begins, text) = match text.strip_prefix("generation") {
            Some(text) => (true, text),
            None => (false, text.strip_prefix("endgeneration")?),
        };
        let (after, text) = signed(text.trim_start());
        Some(Self { begins, before, after, rest: text.strip_prefix("%}")? })
    }

    fn write(&self, out: &mut String, marked: bool) {
        let Self { before, after, .. } = self;
        let mark = match marked {
            true => format!("{{{{ \"{}\" }}}}", if self.begins { BEGIN } else { END }),
            false => "{{ \"\" }}".into(),
        };
        let (first, second) = match self.begins {
            true => ("with", "if true"),
            false => ("endif", "endwith"),
        };
        out.push_str(&format!("{{%{before} {first} %}}{mark}{{% {second} {after}%}}"));
    }
}

/// The sign that a text begins with, if it does, and the rest.
fn signed(text: &str) -> (&str, &str) {
    text.split_at(usize::from(text.starts_with(['-', '+'])))
}

/// A text without marks, and what was between them, in bytes; `None` if a mark has no partner.
pub(super) fn between_marks(marked: &str) -> Option<(String, Vec<Range<usize>>)> {
    let (mut text, mut spans, mut open) = (String::new(), Vec::new(), None);
    for character in marked.chars() {
        match (character, open) {
            (BEGIN, None) => open = Some(text.len()),
            (END, Some(start)) => {
                spans.push(start..text.len());
                open = None;
            }
            (BEGIN, Some(_)) | (END, None) => return None,
            (other, _) => text.push(other),
        }
    }
    open.is_none().then_some((text, spans))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_scopes_that_keep_their_signs() {
        let tagless = |source| without_tags(source, false);
        assert_eq!(
            tagless("a {%- generation %}b{%endgeneration-%} c {% if x %}").as_deref(),
            Some(
                "a {%- with %}{{ \"\" }}{% if true %}b{% endif %}{{ \"\" }}{% endwith -%} c {% if x %}"
            )
        );
        assert_eq!(tagless("{% generations %}{{ generation }}{% set generation = 1 %}"), None);
        assert_eq!(tagless("{% {% generation"), None);
    }

    #[test]
    fn what_is_between_marks_is_counted_without_them() {
        let (text, spans) = between_marks("é\u{fdd0}ab\u{fdd1}c\u{fdd0}\u{fdd1}").unwrap();
        assert_eq!((text.as_str(), spans), ("éabc", vec![2..4, 5..5]));
        for lonely in ["\u{fdd0}", "\u{fdd1}", "\u{fdd0}\u{fdd0}\u{fdd1}\u{fdd1}"] {
            assert_eq!(between_marks(lonely), None);
        }
    }
}
