use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::files::FileError;
use crate::model::ConfigError;
use crate::progress::Interrupted;

/// Why a GGUF file cannot be turned into a model directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// There is no such file.
    #[error("{path}: no such file", path = path.display())]
    Missing {
        /// Where it was expected.
        path: PathBuf,
    },
    /// A file that is truncated, damaged or not a GGUF file.
    #[error("{path}: not a valid GGUF file: {reason}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },
    /// A model of another family.
    #[error("{path}: architecture `{architecture}` is not supported; llama and qwen2 are", path = path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// The architecture that it names.
        architecture: String,
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
    /// The metadata does not describe a supported model.
    #[error("{path}: its metadata: {source}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// A tensor of a type that is not supported.
    #[error("{path}: tensor `{tensor}` is {dtype}, which is not supported", path = path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: String,
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
    /// A weight is infinite or not a number.
    #[error("{path}: tensor `{tensor}` holds {value} at flat index {index}", path = path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Position of the first such entry, row-major, in the order of the model directory.
        index: usize,
        /// The entry.
        value: f32,
    },
    /// A tokenizer that is not supported, or damaged.
    #[error("{path}: its tokenizer: {reason}", path = path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The model directory cannot be written.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}
