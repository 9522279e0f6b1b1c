use super::type_plan::TypePlanError;
use crate::calibrate::CalibrationError;
use crate::checkpoint::CheckpointError;
use crate::eval::EvalError;
use crate::forms::FormError;
use crate::ggml::QuantizeError;
use crate::linalg::LinalgError;
use crate::progress::Interrupted;
use crate::workers::Oversized;

/// Why the costs of types cannot be measured, or a plan of types not be carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypesError {
    /// The model cannot be read.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// The calibration cannot be used.
    #[error("{0}")]
    Calibration(#[from] CalibrationError),
    /// A matrix cannot be rounded.
    #[error("tensor `{tensor}`: {source}")]
    Quantize {
        /// The tensor.
        tensor: String,
        /// Why.
        source: QuantizeError,
    },
    /// A matrix cannot be brought into a form.
    #[error("tensor `{tensor}`: {source}")]
    Form {
        /// The tensor.
        tensor: String,
        /// Why.
        source: FormError,
    },
    /// The second moments of a matrix cannot be used.
    #[error("tensor `{tensor}`: {source}")]
    Linalg {
        /// The tensor.
        tensor: String,
        /// Why.
        source: LinalgError,
    },
    /// The predictions of the model cannot be compared.
    #[error("{0}")]
    Eval(#[from] EvalError),
    /// A plan of types is for another model, or for another version of this one.
    #[error("the plan of types is not for this model: `{tensor}` {reason}")]
    Foreign {
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The types make no plan.
    #[error("{0}")]
    Plan(#[from] TypePlanError),
    /// A matrix does not fit the memory limit.
    #[error("{0}")]
    Oversized(#[from] Oversized),
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

impl TypesError {
    /// Whether a matrix has a number that is too large for a type.
    pub fn is_overflow(&self) -> bool {
        matches!(self, Self::Quantize { source: QuantizeError::Overflow { .. }, .. })
    }
}
