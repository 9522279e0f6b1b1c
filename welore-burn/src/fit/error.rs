use crate::calibrate::CalibrationError;
use crate::linalg::LinalgError;
use crate::progress::Interrupted;
use crate::surgery::SurgeryError;

/// Why factors cannot be fitted.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// The calibration cannot be used.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The plan cannot be carried out.
    #[error(transparent)]
    Surgery(#[from] SurgeryError),
    /// A matrix cannot be factored.
    #[error("`{name}`: {source}")]
    Linalg {
        /// Name of the matrix.
        name: String,
        /// Why.
        source: LinalgError,
    },
    /// The calibration holds no text.
    #[error("the calibration holds no text to fit to")]
    NoText,
    /// The blocks of the compressed model compute something that is not a number.
    #[error("block {block} of the compressed model does not compute numbers")]
    NotFinite {
        /// Number of the block, from 1.
        block: usize,
    },
    /// The user stopped the work.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}
