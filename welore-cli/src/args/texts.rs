//! Texts to calibrate on, and how texts begin.

use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use clap::builder::{PathBufValueParser, TypedValueParser};

/// The word for the text that the model writes itself.
const OWN: &str = "self";

/// A text to calibrate on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextArg {
    /// The one that the model writes itself.
    Own,
    /// A file.
    File(PathBuf),
}

impl TextArg {
    /// The file, if it is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Own => None,
            Self::File(path) => Some(path),
        }
    }
}

impl Display for TextArg {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str(OWN),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Parses one text.
pub(super) fn calibration_text() -> impl TypedValueParser<Value = TextArg> {
    PathBufValueParser::new().map(|path| match path.to_str() {
        Some(OWN) => TextArg::Own,
        _ => TextArg::File(path),
    })
}

/// What begins with the token that begins texts (BOS).
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum BosArg {
    /// every window and prompt, if the tokenizer puts the token before a text
    Auto,
    /// every window and prompt
    On,
    /// the whole text, and so its first window only, as in transformers and the scripts of papers
    Once,
    /// nothing
    Off,
}
