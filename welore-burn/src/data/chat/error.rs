use std::path::PathBuf;

use crate::files::FileError;

/// Why a conversation has no text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// A file cannot be read.
    #[error("{0}")]
    File(FileError),
    /// The model directory has no template.
    #[error("{dir}: the model has no chat template", dir = dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// A file is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The template says that it is not for these messages.
    #[error("{path}: the chat template refuses the messages: {message}", path = path.display())]
    Refused {
        /// Where the template is.
        path: PathBuf,
        /// What it says.
        message: String,
    },
    /// The template is wrong, or uses what is not known here.
    #[error("{path}: the chat template fails: {reason}", path = path.display())]
    Failed {
        /// Where the template is.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The template takes too long or writes too much. One that took too long may still be at work on a thread
    /// of its own, and take more and more memory, so a program should end soon.
    #[error("{path}: the chat template takes far longer than any should", path = path.display())]
    TooMuch {
        /// Where the template is.
        path: PathBuf,
    },
    /// What the template writes before an answer is not how it writes it in a conversation.
    #[error(
        "{path}: the chat template does not write message {message} after the prompt for it, so what the \
         assistant wrote cannot be told from the rest",
        path = path.display()
    )]
    Rewritten {
        /// Where the template is.
        path: PathBuf,
        /// Number of the message, from 1.
        message: usize,
    },
    /// An option of the template has the name of something that every template is given.
    #[error("`{name}` cannot be set, because the conversation decides it")]
    Variable {
        /// The name.
        name: String,
    },
}

impl From<FileError> for ChatError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}
