use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

/// Why text cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// The file is not UTF-8.
    #[error("{path}: not UTF-8 text (byte {position})", path = path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// First byte that is not.
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
        /// What the tokenizers crate says.
        reason: String,
    },
    /// The tokenizer refused a text.
    #[error("the text cannot be tokenized: {0}")]
    Encode(String),
    /// Tokens that cannot be turned into text.
    #[error("the tokens cannot be decoded: {0}")]
    Decode(String),
}

/// Reads a text file whole.
///
/// # Errors
///
/// [`DataError::Io`], [`DataError::NotUtf8`], [`DataError::Empty`].
pub fn read_text(path: impl AsRef<Path>) -> Result<String, DataError> {
    let path = path.as_ref();
    let bytes =
        std::fs::read(path).map_err(|source| DataError::Io { path: path.into(), source })?;
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
#[derive(Debug, Clone)]
pub struct TextTokenizer(Tokenizer);

impl TextTokenizer {
    /// Opens the tokenizer of a model directory.
    ///
    /// # Errors
    ///
    /// [`DataError::Tokenizer`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = dir.as_ref().join("tokenizer.json");
        if !path.is_file() {
            return Err(DataError::NoTokenizer { path });
        }
        Tokenizer::from_file(&path)
            .map(Self)
            .map_err(|error| DataError::Tokenizer { path, reason: error.to_string() })
    }

    /// Tokens of a whole text, without special tokens added.
    ///
    /// # Errors
    ///
    /// [`DataError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let encoding =
            self.0.encode_fast(text, false).map_err(|e| DataError::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of tokens, special tokens left out.
    ///
    /// # Errors
    ///
    /// [`DataError::Decode`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String, DataError> {
        self.0.decode(tokens, true).map_err(|e| DataError::Decode(e.to_string()))
    }

    /// Decodes tokens one at a time: the returned function gives the text that each token
    /// completes, which is nothing while a character is still in parts.
    pub fn stream(&self) -> impl FnMut(u32) -> Result<Option<String>, DataError> + '_ {
        let mut stream = self.0.decode_stream(true);
        move |token| stream.step(token).map_err(|e| DataError::Decode(e.to_string()))
    }
}
