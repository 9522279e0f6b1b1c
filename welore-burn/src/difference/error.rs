use std::path::PathBuf;

use crate::adapters::LoraProblem;
use crate::calibrate::CalibrationError;
use crate::checkpoint::CheckpointError;
use crate::linalg::LinalgError;
use crate::modules::MatrixName;
use crate::progress::Interrupted;
use crate::spectrum::SpectrumError;
use crate::words::number_of;
use crate::workers::Oversized;

/// Why the difference of two models has no approximation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DifferenceError {
    /// A model cannot be read.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// The calibration cannot be used.
    #[error("{0}")]
    Calibration(#[from] CalibrationError),
    /// The selection matches nothing.
    #[error("{0}")]
    Spectrum(#[from] SpectrumError),
    /// A matrix does not fit the memory limit.
    #[error("{0}")]
    Oversized(#[from] Oversized),
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// A difference cannot be decomposed.
    #[error("`{name}`: {source}")]
    Linalg {
        /// The matrix.
        name: MatrixName,
        /// Why.
        source: LinalgError,
    },
    /// The factors of a matrix make no adapter, because an entry does not fit f32 or the product
    /// overflows.
    #[error("`{name}`: {source}")]
    Lora {
        /// The matrix.
        name: MatrixName,
        /// Why.
        source: LoraProblem,
    },
    /// Only one of the models has a tensor.
    #[error("{lacks} has no `{tensor}`, which {has} has", lacks = lacks.display(), has = has.display())]
    Missing {
        /// The tensor, by the name of the dense weight if it is a matrix.
        tensor: String,
        /// The model that has it.
        has: PathBuf,
        /// The one that does not.
        lacks: PathBuf,
    },
    /// A tensor has other shapes in the two models.
    #[error(
        "`{tensor}` is {from_shape:?} in {from}, and {to_shape:?} in {to}",
        from = from.display(),
        to = to.display()
    )]
    Shape {
        /// The tensor, by the name of the dense weight if it is a matrix.
        tensor: String,
        /// One model.
        from: PathBuf,
        /// The shape there.
        from_shape: Vec<usize>,
        /// The other model.
        to: PathBuf,
        /// The shape there.
        to_shape: Vec<usize>,
    },
    /// No selected matrix differs.
    #[error("{from} and {to} do not differ in any selected matrix", from = from.display(), to = to.display())]
    Same {
        /// One model.
        from: PathBuf,
        /// The other model.
        to: PathBuf,
    },
    /// A rank of 0.
    #[error("a rank must be at least 1")]
    NoRank,
    /// A relative error that is not in `[0, 1)`.
    #[error("a relative error of {0} is not at least 0 and below 1")]
    Err(f64),
    /// No factors of any matrix fit.
    #[error(
        "no matrix can have rank 1 within {}: the smallest takes {least}",
        number_of(usize::try_from(*most).unwrap_or(usize::MAX), "parameter")
    )]
    OutOfReach {
        /// The parameters allowed.
        most: u64,
        /// The parameters of the smallest factors.
        least: u64,
    },
}

impl DifferenceError {
    /// Adds the name of the matrix to an error of its decomposition.
    pub(super) fn of_linalg(name: &MatrixName) -> impl Fn(LinalgError) -> Self + use<> {
        let name = name.clone();
        move |source| Self::Linalg { name: name.clone(), source }
    }

    /// Adds the name of the matrix to an error of its factors.
    pub(super) fn of_lora(name: &MatrixName) -> impl FnOnce(LoraProblem) -> Self + use<> {
        let name = name.clone();
        move |source| Self::Lora { name, source }
    }
}
