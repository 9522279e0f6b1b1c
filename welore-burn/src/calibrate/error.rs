use std::path::PathBuf;
use std::sync::Arc;

use crate::checkpoint::CheckpointError;
use crate::files::FileError;
use crate::forms::FormError;
use crate::ggml::ContainerError;
use crate::linalg::LinalgError;
use crate::modules::MatrixName;
use crate::progress::Interrupted;
use crate::words::number_of;

/// Why a model cannot be calibrated, or a calibration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// The checkpoint or the tensors of a calibration cannot be read or written.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// There is no such file.
    #[error("{path}: no such file", path = path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The file is not a calibration.
    #[error("{path}: not a calibration: {reason}", path = path.display())]
    NotCalibration {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file was written by another version.
    #[error("{path}: calibration format version {version} is not supported", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// A GGUF file cannot be read or written.
    #[error("{0}")]
    Container(#[from] ContainerError),
    /// The file is not an importance matrix of llama.cpp.
    #[error("{path}: not an importance matrix: {reason}", path = path.display())]
    NotImatrix {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An entry of an importance matrix cannot be used.
    #[error("{path}: `{entry}` {reason}", path = path.display())]
    ImatrixEntry {
        /// The file.
        path: PathBuf,
        /// llama.cpp's name of the matrix.
        entry: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An importance matrix is given to a method that needs gradients.
    #[error("{path}: an importance matrix has no gradients, which this method needs", path = path.display())]
    ImatrixGradients {
        /// The file.
        path: PathBuf,
    },
    /// A matrix cannot be in an importance matrix.
    #[error("`{0}` has no name in llama.cpp's files")]
    NoTensor(MatrixName),
    /// The calibration lacks a matrix, or has other weights under its name.
    #[error("the calibration was made for another model: {reason}")]
    Foreign {
        /// What differs.
        reason: String,
    },
    /// A matrix is not dense.
    #[error("matrix `{name}`: {source}")]
    Form {
        /// Name of the matrix.
        name: MatrixName,
        /// Why.
        source: FormError,
    },
    /// There is no matrix to calibrate.
    #[error("the model has no matrix to calibrate")]
    NothingSelected,
    /// A window too short to predict a token.
    #[error("a window needs at least 2 tokens, not {0}")]
    SeqLen(usize),
    /// No windows were requested.
    #[error("at least one window of the text must be read")]
    NoWindows,
    /// Windows longer than the model's context.
    #[error("windows of {seq_len} tokens are longer than the model's context of {context}")]
    Context {
        /// Number of tokens in a window.
        seq_len: usize,
        /// The model's context, in tokens.
        context: usize,
    },
    /// The text does not fill one window.
    #[error("the text has {}, too few for one window of {seq_len}", number_of(*tokens, "token"))]
    TooShort {
        /// Number of tokens in the text.
        tokens: usize,
        /// Number of tokens in a window.
        seq_len: usize,
    },
    /// Fewer tokens than a matrix has inputs.
    #[error(
        "only {} for the {size} inputs of `{name}`: at least {size} are needed, and ten times as many are better",
        number_of(*tokens, "token")
    )]
    TooLittleText {
        /// Number of tokens of the text that are used.
        tokens: usize,
        /// The matrix with the most inputs.
        name: MatrixName,
        /// Number of its inputs.
        size: usize,
    },
    /// A token outside the vocabulary.
    #[error(
        "token {token} is not in the model's vocabulary of {vocab_size}; does the tokenizer belong to another model?"
    )]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The model computed values that are infinite or not a number.
    #[error("the {what} of `{name}` are not finite")]
    NotFinite {
        /// Inputs, gradients or probes.
        what: &'static str,
        /// Name of the matrix.
        name: MatrixName,
    },
    /// A matrix is not the weight of a `LowRankLinear` that the model uses.
    #[error("matrix `{0}` gets no inputs; its layer must be a LowRankLinear that a block uses")]
    NotUsed(MatrixName),
    /// The calibration has no gradients.
    #[error("the calibration has no gradients, which this method needs")]
    NoGradients,
    /// Second moments are to be shrunk by the data, and it is not known how much tokens differ.
    #[error(
        "the calibration does not say how much its tokens differ, which shrinking by the data needs"
    )]
    NoSpread,
    /// A norm cannot be computed.
    #[error("`{name}`: {source}")]
    Linalg {
        /// Name of the matrix.
        name: MatrixName,
        /// Why.
        source: LinalgError,
    },
    /// An error that several matrices share.
    #[error("{0}")]
    Shared(#[source] Arc<CalibrationError>),
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}
