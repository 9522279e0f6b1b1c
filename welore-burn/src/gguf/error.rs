use std::path::PathBuf;

use crate::adapters::AdapterError;
use crate::calibrate::CalibrationError;
use crate::checkpoint::CheckpointError;
use crate::files::FileError;
use crate::ggml::{ContainerError, QuantizeError, TensorType};
use crate::linalg::LinalgError;
use crate::model::ConfigError;
use crate::named::Named;
use crate::progress::Interrupted;
use crate::workers::Oversized;

/// Why a GGUF file cannot be turned into a model directory, or a model directory into a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file cannot be read, or its metadata or its tensors are not those of a model.
    #[error("{0}")]
    Container(#[from] ContainerError),
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// A model of another family.
    #[error("{path}: architecture `{architecture}` is not supported, only {supported}", path = path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// The architecture that it names.
        architecture: String,
        /// Supported architectures.
        supported: String,
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
    /// A model directory that llama.cpp cannot run as it is.
    #[error("{path}: cannot be written as GGUF: {reason}", path = path.display())]
    Unsupported {
        /// The directory.
        path: PathBuf,
        /// What llama.cpp cannot do.
        reason: String,
    },
    /// A type that was chosen for a tensor that cannot have it.
    #[error("tensor `{tensor}` {reason}")]
    Choice {
        /// The tensor, as the choice names it.
        tensor: String,
        /// Why.
        reason: String,
    },
    /// A type of blocks, which the [`CheckpointSource`](super::CheckpointSource) does not make.
    #[error("tensor `{tensor}` cannot be stored as {}: only f32, f16 and bf16 are made here", dtype.name())]
    Blocks {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: TensorType,
    },
    /// A matrix cannot be rounded into the blocks of its type.
    #[error("tensor `{tensor}`: {source}")]
    Quantize {
        /// The tensor.
        tensor: String,
        /// Why.
        source: QuantizeError,
    },
    /// The second moments of a matrix cannot be used.
    #[error("tensor `{tensor}`: {source}")]
    Linalg {
        /// The tensor.
        tensor: String,
        /// Why.
        source: LinalgError,
    },
    /// A calibration cannot be used.
    #[error("{0}")]
    Calibration(#[from] CalibrationError),
    /// A merged matrix that does not fit the memory of this machine.
    #[error("{0}")]
    Oversized(#[from] Oversized),
    /// An adapter does not fit the model, or cannot be stored.
    #[error("{0}")]
    Adapter(#[from] AdapterError),
    /// A model directory cannot be read or written.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}
