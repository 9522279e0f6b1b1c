use std::path::PathBuf;
use std::sync::Arc;

use crate::checkpoint::CheckpointError;
use crate::files::FileError;
use crate::forms::FormError;
use crate::linalg::LinalgError;
use crate::modules::MatrixName;
use crate::progress::Interrupted;

/// Why a model cannot be calibrated, or a calibration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    /// Reading or writing failed.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// A file cannot be written.
    #[error("{0}")]
    File(#[from] FileError),
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
    /// A matrix is not a dense one.
    #[error("matrix `{name}`: {source}")]
    Form {
        /// Name of the matrix.
        name: MatrixName,
        /// Why.
        source: FormError,
    },
    /// No matrix to look at.
    #[error("the model has no matrix to calibrate")]
    NothingSelected,
    /// A window that predicts nothing.
    #[error("a window needs at least 2 tokens, {0} were asked for")]
    SeqLen(usize),
    /// Longer windows than the model can see.
    #[error("windows of {seq_len} tokens are longer than the model's context of {context}")]
    Context {
        /// Tokens in a window.
        seq_len: usize,
        /// The model's context.
        context: usize,
    },
    /// Not even one window of text.
    #[error("the text has {tokens} tokens, which do not fill one window of {seq_len}")]
    TooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens in a window.
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
        name: MatrixName,
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
        name: MatrixName,
    },
    /// A matrix is not the weight of a `LowRankLinear` that the model uses.
    #[error("matrix `{0}` sees no inputs; its layer must be a LowRankLinear that the blocks use")]
    NotUsed(MatrixName),
    /// There are no gradients in this calibration.
    #[error("the calibration has no gradients, which this method needs")]
    NoGradients,
    /// A norm cannot be made.
    #[error("`{name}`: {source}")]
    Linalg {
        /// Name of the matrix.
        name: MatrixName,
        /// Why.
        source: LinalgError,
    },
    /// What failed for several matrices at once.
    #[error("{0}")]
    Shared(#[source] Arc<CalibrationError>),
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}
