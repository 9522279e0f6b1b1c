use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::linalg::LinalgError;
use crate::progress::Interrupted;

/// Why a model cannot be calibrated, or a calibration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// Reading or writing failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Not a calibration.
    #[error("{path}: not a calibration: {reason}", path = path.display())]
    NotCalibration {
        /// The file.
        path: PathBuf,
        /// How that shows.
        reason: String,
    },
    /// Written by a newer version.
    #[error("{path}: calibration format version {version} is not known here", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The calibration does not know a matrix, or only others of that name.
    #[error("the calibration was made for another model: {reason}")]
    Foreign {
        /// How that shows.
        reason: String,
    },
    /// A matrix is factored already.
    #[error("matrix `{name}` is factored already; calibrate the dense model")]
    Factored {
        /// Name of the matrix.
        name: String,
    },
    /// No matrix to look at.
    #[error("the model has no matrix to calibrate")]
    NothingSelected,
    /// A block that predicts nothing.
    #[error("a block needs at least 2 tokens, {0} were asked for")]
    SeqLen(usize),
    /// Longer blocks than the model can see.
    #[error("blocks of {seq_len} tokens are longer than the model's context of {context}")]
    Context {
        /// Tokens in a block.
        seq_len: usize,
        /// The model's context.
        context: usize,
    },
    /// Not even one block of text.
    #[error("the text has {tokens} tokens, which do not fill one block of {seq_len}")]
    TooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens in a block.
        seq_len: usize,
    },
    /// Fewer tokens than directions.
    #[error(
        "{tokens} tokens cannot tell the {size} directions of the inputs of `{name}` apart: at least {size} are needed, ten times as many are good"
    )]
    TooLittleText {
        /// Tokens of the text that are used.
        tokens: usize,
        /// The matrix with the longest inputs.
        name: String,
        /// Their length.
        size: usize,
    },
    /// A token the model does not know.
    #[error(
        "token {token} is not in the model's vocabulary of {vocab_size}; is the tokenizer another model's?"
    )]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The model computed something that is not a number.
    #[error("the {what} of `{name}` are not finite")]
    NotFinite {
        /// Inputs or gradients.
        what: &'static str,
        /// Name of the matrix.
        name: String,
    },
    /// There are no gradients in this calibration.
    #[error("the calibration has no gradients, which this method needs")]
    NoGradients,
    /// A norm cannot be made.
    #[error("`{name}`: {source}")]
    Linalg {
        /// Name of the matrix.
        name: String,
        /// Why.
        source: LinalgError,
    },
    /// The user stopped the work.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}
