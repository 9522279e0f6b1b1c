//! Text from strangers, made harmless where people see it.
//!
//! Names of tensors and directories, paths, policies and whatever else comes from a file may hold
//! characters that a terminal, Markdown or HTML acts on. There is one function for each of these
//! places, and what it gives stays readable.

use std::borrow::Cow;

/// Text within a line on a terminal. Control characters, line breaks among them, and characters that
/// are invisible or change the direction of a text are spelt out, such as `\u{1b}`.
pub fn terminal(text: &str) -> Cow<'_, str> {
    spelt_out(text, |char| char.is_control() || is_invisible(char))
}

/// Text of several lines on a terminal, such as what a model generates. Line breaks and tabs stay,
/// and so do invisible characters, which emoji and some scripts need; other control characters are
/// spelt out.
pub fn prose(text: &str) -> Cow<'_, str> {
    spelt_out(text, |char| char.is_control() && !matches!(char, '\n' | '\r' | '\t'))
}

/// The beginning of a text that has more than `most` characters, the last of which is `…` then.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    match text.chars().nth(most) {
        None => Cow::Borrowed(text),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Text within a line of Markdown. It neither ends the line, a table cell or a code span, nor begins
/// anything, be it HTML.
pub fn markdown(text: &str) -> String {
    let text = one_line(text);
    let mut escaped = String::with_capacity(text.len());
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        // Within a word it is no emphasis, and names are full of it.
        let in_word = before.is_alphanumeric() && chars.peek().is_some_and(|c| c.is_alphanumeric());
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '_' if in_word => escaped.push(char),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => {
                escaped.extend(['\\', char])
            }
            _ => escaped.push(char),
        }
        before = char;
    }
    escaped
}

/// The same as code, if it is as plain as names and paths usually are; nothing can be escaped within
/// a code span.
pub fn markdown_code(text: &str) -> String {
    let plain = |char: char| char.is_alphanumeric() || " -_./@+:,".contains(char);
    match !text.trim().is_empty() && text.chars().all(plain) {
        true => format!("`{text}`"),
        false => markdown(text),
    }
}

/// Text within an element of XML, such as SVG, or a quoted attribute.
pub fn xml(text: &str) -> String {
    // XML cannot even hold most control characters.
    let text = terminal(text);
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // No characters of XML.
            '\u{fffe}' | '\u{ffff}' => escaped.extend(char.escape_unicode()),
            _ => escaped.push(char),
        }
    }
    escaped
}

/// JSON within a script element of HTML, where only the end tag has to be escaped. It stays the same
/// JSON.
pub fn script_json(json: &str) -> String {
    json.replace('<', "\\u003c")
}

/// JSON whose texts show no control characters, which a terminal would obey. It stays the same JSON.
pub fn json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for char in json.chars() {
        match char != '\n' && (char.is_control() || is_invisible(char)) {
            true => char.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                escaped.push_str(&format!("\\u{unit:04x}"));
            }),
            false => escaped.push(char),
        }
    }
    escaped
}

/// Text without line breaks and other control characters, in single spaces.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    terminal(&words.join(" ")).into_owned()
}

fn spelt_out(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for char in text.chars() {
        match hidden(char) {
            true => shown.extend(char.escape_unicode()),
            false => shown.push(char),
        }
    }
    Cow::Owned(shown)
}

/// Whether a character has no width, separates lines, or changes the direction of what follows.
fn is_invisible(char: char) -> bool {
    matches!(
        char,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Characters that a terminal acts on, and characters that hide or reorder others.
    fn hostile() -> Vec<char> {
        let controls = ('\0'..='\u{1f}').chain('\u{7f}'..='\u{9f}');
        let bidi = ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}');
        let others = ['\u{200b}', '\u{200d}', '\u{200e}', '\u{feff}', '\u{2028}', '\u{e0041}'];
        controls.chain(bidi).chain(others).collect()
    }

    #[test]
    fn json_for_a_terminal_is_the_same_json() {
        for char in hostile() {
            let text = serde_json::to_string_pretty(&[format!("a{char}b\n")]).unwrap();
            let shown = json(&text);
            assert!(!shown.chars().any(|c| c != '\n' && (c.is_control() || is_invisible(c))));
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            assert_eq!(value(&shown), value(&text), "{char:?}");
        }
    }

    #[test]
    fn terminals_get_only_what_is_visible() {
        for char in hostile() {
            let text = format!("a{char}b");
            let shown = terminal(&text);
            assert_eq!(shown, format!("a{}b", char.escape_unicode()), "{char:?}");
        }
        for plain in ["model.layers.0.q_proj", "größer → 模型", "a  b", ""] {
            assert!(matches!(terminal(plain), Cow::Borrowed(same) if same == plain));
        }
    }

    #[test]
    fn only_long_texts_are_shortened() {
        assert!(matches!(shortened("größer", 6), Cow::Borrowed("größer")));
        assert_eq!(shortened("größer", 5), "größ…");
    }

    #[test]
    fn prose_keeps_its_lines_and_emoji() {
        let text = "one\n\ttwo\r\n👩\u{200d}🚀";
        assert_eq!(prose(text), text);
        assert_eq!(prose("\u{1b}]0;owned\u{7}\u{9b}2J"), "\\u{1b}]0;owned\\u{7}\\u{9b}2J");
    }

    #[test]
    fn markdown_begins_and_ends_nothing() {
        let hostile = "x`\n<!-- measured -->\n\n# t | *b* [l](u) <script>&lt;\u{1b}[31m _e_";
        let text = markdown(hostile);
        assert!(!text.contains(['\n', '<', '>', '\u{1b}']), "{text}");
        for char in ['`', '*', '[', ']', '|', '#'] {
            let escaped = text.matches(&format!("\\{char}")).count();
            assert_eq!(text.matches(char).count(), escaped, "{char} in {text}");
        }
        assert!(text.contains("&amp;lt;") && text.ends_with("\\_e\\_"), "{text}");
        assert_eq!(markdown("tiny_llama-2, 4 windows"), "tiny_llama-2, 4 windows");
    }

    #[test]
    fn only_plain_text_becomes_code() {
        assert_eq!(markdown_code("org/my_model-1.5B"), "`org/my_model-1.5B`");
        assert_eq!(markdown_code("a`b"), "a\\`b");
        assert_eq!(markdown_code("a\nb"), "a b");
        assert_eq!(markdown_code(" "), "");
    }

    #[test]
    fn xml_has_neither_tags_nor_quotes_nor_control_characters() {
        assert_eq!(xml("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
        let hostile: String = hostile().into_iter().chain(['\u{ffff}']).collect();
        let text = xml(&hostile);
        assert!(
            text.starts_with("\\u{0}") && !text.chars().any(|char| char.is_control()),
            "{text}"
        );
        assert!(!text.contains('\u{ffff}'));
        assert_eq!(xml("größer → 模型"), "größer → 模型");
    }

    #[test]
    fn script_json_is_the_same_json_without_tags() {
        let json = serde_json::json!({ "name": "</script><b>" }).to_string();
        let escaped = script_json(&json);
        assert!(!escaped.contains('<'));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&escaped).unwrap(),
            serde_json::from_str::<serde_json::Value>(&json).unwrap()
        );
    }
}
