use crate::calibrate::CalibrationError;
use crate::compress::CompressError;
use crate::eval::EvalError;
use crate::forms::FormError;
use crate::linalg::LinalgError;
use crate::modules::MatrixName;
use crate::progress::Interrupted;

/// Why a compressed model cannot take a step towards the dense one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DistillError {
    /// The calibration cannot be used.
    #[error("{0}")]
    Calibration(#[from] CalibrationError),
    /// The calibration has too little text.
    #[error(
        "the calibration has {windows} windows of text, and a step needs more than the {held_back} \
         that are held back"
    )]
    TooFewWindows {
        /// The windows that it has.
        windows: usize,
        /// Those that measure the length of the step.
        held_back: usize,
    },
    /// An option is out of its range.
    #[error("{0}")]
    Options(&'static str),
    /// No matrix is in factors.
    #[error("no matrix of the model is stored in factors, so none can be changed")]
    NothingFactored,
    /// A matrix cannot be read, or stored.
    #[error("`{name}`: {source}")]
    Form {
        /// The matrix.
        name: MatrixName,
        /// Why.
        source: FormError,
    },
    /// A step cannot be computed.
    #[error("`{name}`: {source}")]
    Linalg {
        /// The matrix.
        name: MatrixName,
        /// Why.
        source: LinalgError,
    },
    /// The divergence cannot be measured.
    #[error("{0}")]
    Eval(#[from] EvalError),
    /// The result cannot be written.
    #[error("{0}")]
    Compress(#[from] CompressError),
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

impl DistillError {
    /// Adds the name of the matrix to an error of its form.
    pub(super) fn of_form(name: &MatrixName) -> impl FnOnce(FormError) -> Self {
        let name = name.clone();
        move |source| Self::Form { name, source }
    }

    /// Whether the user stopped the work.
    pub fn is_interruption(&self) -> bool {
        match self {
            Self::Interrupted(_)
            | Self::Calibration(CalibrationError::Interrupted(_))
            | Self::Eval(EvalError::Interrupted(_)) => true,
            Self::Compress(error) => error.is_interruption(),
            _ => false,
        }
    }
}
