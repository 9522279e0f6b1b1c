use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tokenizer_guard::{Fault, GuardedTokenizer, MAX_BYTES, guarded, load};

use crate::files::{FileError, LARGEST_TEXT, check_fetched, read_existing, read_input};

/// Why text cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// The file is too large, something else than a file, or a pointer of Git LFS.
    #[error("{0}")]
    File(FileError),
    /// The file is not UTF-8.
    #[error("{path}: not UTF-8 text (byte {position})", path = path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Position of the first byte that is not UTF-8.
        position: usize,
    },
    /// The file has no text.
    #[error("{path}: the text is empty", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The model directory has no tokenizer file.
    #[error("{path}: no such file", path = path.display())]
    NoTokenizer {
        /// The file.
        path: PathBuf,
    },
    /// The tokenizer file cannot be read.
    #[error("{path}: not a tokenizer: {reason}", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A part of the tokenizer file is wrong, or would take time or memory without limits.
    #[error("{path}: its {part} cannot be used: {reason}", path = path.display())]
    TokenizerPart {
        /// The file.
        path: PathBuf,
        /// The part, such as its decoder.
        part: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A line is not what the file should hold.
    #[error("{path}: line {line}: {reason}", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A JSON array, in place of a text or of lines of JSON.
    #[error("{path}: a JSON array, neither plain text nor JSONL", path = path.display())]
    Array {
        /// The file.
        path: PathBuf,
    },
    /// Not a token file.
    #[error("{path}: not a token file", path = path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
    },
    /// The tokenizer refused a text.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    /// The tokens cannot be turned into text.
    #[error("the tokens cannot be decoded: {0}")]
    Decode(String),
}

impl From<FileError> for DataError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io { path, source } => Self::Io { path, source },
            other => Self::File(other),
        }
    }
}

/// Reads a whole text file, or a pipe.
///
/// # Errors
///
/// [`DataError::Io`], [`DataError::File`], [`DataError::NotUtf8`], [`DataError::Empty`].
pub fn read_text(path: impl AsRef<Path>) -> Result<String, DataError> {
    let path = path.as_ref();
    let bytes = read_input(path, LARGEST_TEXT)?;
    check_fetched(path, &bytes)?;
    let text = String::from_utf8(bytes).map_err(|error| DataError::NotUtf8 {
        path: path.into(),
        position: error.utf8_error().valid_up_to(),
    })?;
    if text.trim().is_empty() {
        return Err(DataError::Empty { path: path.into() });
    }
    Ok(text)
}

/// A model directory's `tokenizer.json`.
///
/// The file may come from anyone: what would panic or take without limits is refused when it is
/// opened, or ends a call with an error. Files of up to 64 MB are read.
#[derive(Debug, Clone)]
pub struct TextTokenizer(Arc<GuardedTokenizer>);

impl TextTokenizer {
    /// Opens the tokenizer of a model directory.
    ///
    /// # Errors
    ///
    /// [`DataError::NoTokenizer`], [`DataError::Io`], [`DataError::File`],
    /// [`DataError::Tokenizer`], [`DataError::TokenizerPart`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = dir.as_ref().join("tokenizer.json");
        let Some(content) = read_existing(&path, MAX_BYTES as u64)? else {
            return Err(DataError::NoTokenizer { path });
        };
        check_fetched(&path, &content)?;
        match load(&content) {
            Ok(tokenizer) => Ok(Self(Arc::new(tokenizer))),
            Err(Fault::Malformed(reason)) => Err(DataError::Tokenizer { path, reason }),
            Err(Fault::Part { part, reason }) => {
                Err(DataError::TokenizerPart { path, part, reason })
            }
        }
    }

    /// The tokens of a whole text, without added special tokens. Perplexity and training put before them
    /// what [`Bos`](crate::model::Bos) says.
    ///
    /// # Errors
    ///
    /// [`DataError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.tokens(text, false)
    }

    /// The tokens of a prompt, with the special tokens that the tokenizer adds around a text, such
    /// as LLaMA's BOS token.
    ///
    /// # Errors
    ///
    /// [`DataError::Encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, DataError> {
        self.tokens(text, true)
    }

    /// The special tokens that the tokenizer puts before a text, such as LLaMA's BOS token; mostly one
    /// or none.
    ///
    /// # Errors
    ///
    /// [`DataError::Encode`].
    pub fn beginning(&self) -> Result<Vec<u32>, DataError> {
        // Any text with a token will do: what stands before it does not depend on it.
        let (plain, mut whole) = (self.encode("a")?, self.encode_prompt("a")?);
        let place = match plain.is_empty() {
            true => None,
            false => whole.windows(plain.len()).position(|part| part == plain),
        };
        whole.truncate(place.unwrap_or(0));
        Ok(whole)
    }

    /// The tokens of a text, and which of them have bytes in the given spans, in order: `spans` of bytes become
    /// spans of tokens.
    ///
    /// # Errors
    ///
    /// [`DataError::Encode`].
    pub fn encode_spans(
        &self,
        text: &str,
        spans: &[Range<usize>],
    ) -> Result<(Vec<u32>, Vec<Range<usize>>), DataError> {
        let encoding = guarded(text.len(), || self.0.encode(text, false));
        let encoding = encoding.map_err(DataError::Encode)?;
        let mut spans = spans.iter().filter(|span| !span.is_empty()).peekable();
        let mut found: Vec<Range<usize>> = Vec::new();
        for (token, (start, end)) in encoding.get_offsets().iter().enumerate() {
            while spans.next_if(|span| *start >= span.end).is_some() {}
            let is_in = spans.peek().is_some_and(|span| *end > span.start);
            match found.last_mut() {
                Some(last) if is_in && last.end == token => last.end += 1,
                _ if is_in => found.push(token..token + 1),
                _ => {}
            }
        }
        Ok((encoding.get_ids().to_vec(), found))
    }

    fn tokens(&self, text: &str, special: bool) -> Result<Vec<u32>, DataError> {
        let encoding = guarded(text.len(), || self.0.encode_fast(text, special));
        Ok(encoding.map_err(DataError::Encode)?.get_ids().to_vec())
    }

    /// The text of tokens, without special tokens.
    ///
    /// # Errors
    ///
    /// [`DataError::Decode`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        guarded(tokens.len(), || self.0.decode(tokens, true)).map_err(DataError::Decode)
    }

    /// Decodes what follows a prompt, one token at a time: the returned function gives the text
    /// that each token completes, or `None` while a character is incomplete.
    ///
    /// The prompt is decoded too, and its text discarded: some tokenizers drop a space at the start
    /// of a text, where the continuation is not.
    ///
    /// # Errors
    ///
    /// [`DataError::Decode`].
    pub fn stream_after(
        &self,
        prompt: &[u32],
    ) -> Result<impl FnMut(u32) -> Result<Option<String>, DataError> + '_, DataError> {
        let mut stream = self.0.decode_stream(true);
        let mut step = move |token| guarded(1, || stream.step(token)).map_err(DataError::Decode);
        for token in prompt {
            step(*token)?;
        }
        Ok(step)
    }
}
