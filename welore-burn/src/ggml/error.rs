use std::path::PathBuf;

use crate::files::FileError;

/// Why a GGUF file cannot be read or written, whatever is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// There is no such file.
    #[error("{path}: no such file", path = path.display())]
    Missing {
        /// Where it was expected.
        path: PathBuf,
    },
    /// A part of a model of several files is not beside the others.
    #[error("{path}: no such file; it is part {number} of {count} of this model", path = path.display())]
    MissingPart {
        /// Where it was expected.
        path: PathBuf,
        /// Its number, from 1.
        number: u64,
        /// The number of parts.
        count: u64,
    },
    /// A file that is not the part of a model that it should be.
    #[error("{path}: {reason}", path = path.display())]
    Part {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that is truncated, damaged or not a GGUF file.
    #[error("{path}: not a valid GGUF file: {reason}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },
    /// A file of another version of the format, or with a type of tensors that is not known.
    #[error("{path}: not supported: {reason}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },
    /// A metadata value that is missing, impossible or not supported.
    #[error("{path}: `{key}` {reason}", path = path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// A tensor that is missing, unknown, or not of the shape that the metadata asks for.
    #[error("{path}: tensor `{tensor}` {reason}", path = path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor that no file can hold like this.
    #[error("tensor `{tensor}` {reason}")]
    Unwritable {
        /// The tensor.
        tensor: String,
        /// Why.
        reason: String,
    },
    /// Metadata that no file can hold.
    #[error("metadata cannot be written: {reason}")]
    Values {
        /// The writer's message.
        reason: String,
    },
}
