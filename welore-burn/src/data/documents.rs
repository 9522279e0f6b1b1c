use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::chat::{Conversation, conversations, is_conversations};
use super::text::{DataError, TextTokenizer, read_text};
use crate::artifact::in_words;

/// What a file to read has.
#[derive(Debug, Clone)]
pub enum Texts {
    /// Documents.
    Documents(Vec<String>),
    /// Conversations, which a chat template turns into text, each with the number of its line.
    Conversations(Vec<(usize, Conversation)>),
}

/// Reads a file of documents or conversations: of each line of a `.jsonl` file the `text`, or the `messages` if
/// the first line has such; and any other file as one document.
///
/// # Errors
///
/// [`DataError::Line`] for a line that is no such object, [`DataError::Array`] for a JSON array, and the
/// errors of [`read_text`].
pub fn read_texts(path: impl AsRef<Path>) -> Result<Texts, DataError> {
    let path = path.as_ref();
    let text = read_text(path)?;
    match is_lines(path) && is_conversations(&text) {
        true => Ok(Texts::Conversations(conversations(path, &text)?)),
        false => Ok(Texts::Documents(documents(path, text)?)),
    }
}

/// Reads the documents of a file: the `text` of every line of a `.jsonl` file, and any other
/// file as one document.
///
/// # Errors
///
/// [`DataError::Line`] for a line that is not such an object, [`DataError::Array`] for a JSON array,
/// whose brackets, quotes and keys would count as text, [`DataError::Conversations`] for what
/// [`read_texts`] reads as such, and the errors of [`read_text`].
pub fn read_documents(path: impl AsRef<Path>) -> Result<Vec<String>, DataError> {
    let path = path.as_ref();
    match read_texts(path)? {
        Texts::Documents(documents) => Ok(documents),
        Texts::Conversations(_) => Err(DataError::Conversations { path: path.into() }),
    }
}

fn is_lines(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "jsonl")
}

fn documents(path: &Path, text: String) -> Result<Vec<String>, DataError> {
    #[derive(Deserialize)]
    struct Line {
        text: String,
    }
    let is_lines = is_lines(path);
    if begins_array(&text) && (is_lines || is_array(&text)) {
        return Err(DataError::Array { path: path.into() });
    }
    if !is_lines {
        return Ok(vec![text]);
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| match serde_json::from_str::<Line>(line) {
            Ok(line) => Ok(line.text),
            Err(error) => Err(DataError::Line {
                path: path.into(),
                line: number + 1,
                reason: format!("not an object with a `text`: {}", reason_of(&error)),
            }),
        })
        .collect()
}

/// Whether a text begins as a JSON array does.
fn begins_array(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').trim_start().starts_with('[')
}

/// Whether a whole text is a JSON array. Prose may begin with a bracket too.
fn is_array(text: &str) -> bool {
    serde_json::from_str::<Vec<IgnoredAny>>(text.trim_start_matches('\u{feff}')).is_ok()
}

/// What is wrong with a part of a file, without the position in that part.
pub(super) fn reason_of(error: &serde_json::Error) -> String {
    let position = format!(" at line {} column {}", error.line(), error.column());
    let reason = in_words(error);
    reason.strip_suffix(position.as_str()).unwrap_or(&reason).to_string()
}

/// The tokens of all documents in sequence. If there are several, `separator` follows each of them,
/// the last one too; a single document has only its own tokens.
///
/// # Errors
///
/// [`DataError::Encode`].
pub fn join_documents(
    documents: &[String],
    tokenizer: &TextTokenizer,
    separator: Option<u32>,
) -> Result<Vec<u32>, DataError> {
    if let [only] = documents {
        return tokenizer.encode(only);
    }
    let mut tokens = Vec::new();
    for document in documents {
        tokens.extend(tokenizer.encode(document)?);
        tokens.extend(separator);
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_jsonl_are_documents_and_other_files_are_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let lines = "{\"text\": \"one\"}\n\n{\"text\": \"two\", \"id\": 2}\n";
        assert_eq!(read_documents(file("a.jsonl", lines)).unwrap(), ["one", "two"]);
        assert_eq!(read_documents(file("a.txt", lines)).unwrap(), [lines]);
        let wrong = "{\"text\": \"one\"}\n{\"txt\": \"two\"}\n";
        let error = read_documents(file("b.jsonl", wrong)).unwrap_err();
        assert!(matches!(error, DataError::Line { line: 2, .. }), "{error}");
    }

    #[test]
    fn lines_with_messages_are_conversations() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            read_texts(path)
        };
        let chat = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
        let Texts::Conversations(all) = read("a.jsonl", &format!("{chat}\n\n{chat}\n")).unwrap()
        else {
            panic!("no conversations")
        };
        assert_eq!(all.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 3]);
        let error = read_documents(dir.path().join("a.jsonl")).unwrap_err();
        assert!(matches!(error, DataError::Conversations { .. }), "{error}");
        let error = read("b.jsonl", &format!("{chat}\n{{\"text\": \"b\"}}\n")).unwrap_err();
        assert!(matches!(error, DataError::Line { line: 2, .. }), "{error}");
        for (name, text) in [("a.txt", chat), ("c.jsonl", r#"{"text": "a"}"#)] {
            assert!(matches!(read(name, text).unwrap(), Texts::Documents(_)), "{name}");
        }
    }

    #[test]
    fn arrays_are_told_and_prose_in_brackets_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            read_documents(path)
        };
        let objects = "\u{feff}[\n  {\"text\": \"one\"},\n  {\"text\": \"two\"}\n]\n";
        for (name, text) in [
            ("a.json", objects),
            ("a.jsonl", objects),
            ("a.txt", "[\"one\", \"two\"]"),
            ("b.jsonl", "[{\"text\": \"one\"},\n"),
        ] {
            let error = read(name, text).unwrap_err();
            assert!(matches!(error, DataError::Array { .. }), "{error}");
            assert!(error.to_string().contains("JSONL"), "{error}");
        }
        for prose in ["[1] A note.\nMore.", "[Curtain.]", "{\"text\": \"one\"}"] {
            assert_eq!(read("c.txt", prose).unwrap(), [prose]);
        }
    }
}
