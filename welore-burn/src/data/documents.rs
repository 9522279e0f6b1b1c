use std::path::Path;

use serde::Deserialize;

use super::text::{DataError, TextTokenizer, read_text};
use crate::artifact::in_words;

/// Reads the documents of a file: the `text` of every line of a `.jsonl` file, and any other
/// file as one document.
///
/// # Errors
///
/// [`DataError::Line`] for a line that is not such an object, and the errors of [`read_text`].
pub fn read_documents(path: impl AsRef<Path>) -> Result<Vec<String>, DataError> {
    #[derive(Deserialize)]
    struct Line {
        text: String,
    }
    let path = path.as_ref();
    let text = read_text(path)?;
    if path.extension().is_none_or(|extension| extension != "jsonl") {
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
}
