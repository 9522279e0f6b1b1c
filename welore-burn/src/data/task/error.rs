use std::path::{Path, PathBuf};

use super::super::documents::reason_of;

/// Why a task cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// There is no such file or directory.
    #[error("{path}: no such file or directory", path = path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
    },
    /// The directory has none of the task's files.
    #[error("{path}: has no file of the task {task} (looked for {names})", path = path.display())]
    NoTaskFile {
        /// The directory.
        path: PathBuf,
        /// Name of the task.
        task: &'static str,
        /// The names looked for.
        names: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// The file is too large for a task.
    #[error("{path}: larger than {limit} bytes, which is too large for a task", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        limit: u64,
    },
    /// The file is not UTF-8.
    #[error("{path}: line {line}: not UTF-8 text", path = path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Number of the first line that is not UTF-8, from 1.
        line: usize,
    },
    /// The file is not JSON, or an example in it does not have the task's format.
    #[error("{path}: line {line}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Number of a line of the malformed example, from 1; of its last line if the example as a
        /// whole is wrong.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The file is a JSON array, where the task has an object on each line.
    #[error("{path}: a JSON array, where JSONL is read: an object on each line", path = path.display())]
    Array {
        /// The file.
        path: PathBuf,
    },
    /// The file has no example.
    #[error("{path}: no examples", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The only file cannot be divided into training and test examples.
    #[error(
        "{path}: all examples ask the same question; training and testing need two different ones",
        path = path.display()
    )]
    TooFew {
        /// The file.
        path: PathBuf,
    },
}

/// The most characters of a parser's message that are kept: it quotes what it found, which may be a
/// whole text.
const LONGEST_REASON: usize = 200;

impl TaskError {
    /// The parser's message, with the line of the file in place of the position in the parsed part.
    pub(super) fn malformed(path: &Path, line: usize, error: &serde_json::Error) -> Self {
        let message = reason_of(error);
        let mut reason: String = message.chars().take(LONGEST_REASON).collect();
        if reason.len() < message.len() {
            reason.push_str("...");
        }
        Self::Malformed { path: path.into(), line, reason }
    }
}
