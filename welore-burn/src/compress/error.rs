use std::path::PathBuf;

use crate::calibrate::CalibrationError;
use crate::checkpoint::CheckpointError;
use crate::files::{FileError, OutputDir};
use crate::forms::FormError;
use crate::linalg::LinalgError;
use crate::modules::MatrixName;
use crate::progress::Interrupted;
use crate::workers::Oversized;

/// Why a plan cannot be carried out, or a model not be merged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// A model directory cannot be read or written.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// The calibration cannot be used.
    #[error("{0}")]
    Calibration(#[from] CalibrationError),
    /// A matrix does not fit the memory that may be used.
    #[error("{0}")]
    Oversized(#[from] Oversized),
    /// The plan does not belong to these weights.
    #[error("the plan was made for another model: {reason}")]
    ForeignPlan {
        /// How that shows.
        reason: String,
    },
    /// A matrix does not have the form that it should be compressed from, or cannot get that of
    /// the plan.
    #[error("`{name}`: {source}")]
    Form {
        /// Name of the matrix.
        name: MatrixName,
        /// Why.
        source: FormError,
    },
    /// A decomposition failed.
    #[error("`{name}`: {source}")]
    Linalg {
        /// Name of the matrix.
        name: MatrixName,
        /// Why.
        source: LinalgError,
    },
    /// There is nothing to merge.
    #[error("{dir}: no matrix is compressed, so the model is dense already", dir = dir.display())]
    NotCompressed {
        /// The model directory.
        dir: PathBuf,
    },
    /// Blocks are compressed one after the other only with the model at hand.
    #[error("to compress block after block, the model must be loaded")]
    NeedsModel,
    /// Sequential targets ask for what inputs a matrix sees.
    #[error("sequential targets need the norm of a calibration, not that of the weights")]
    NeedsCalibration,
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
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

impl CompressError {
    /// Names the output directory by its target, not by where it is prepared.
    pub(super) fn about(self, output: &OutputDir) -> Self {
        match self {
            Self::File(error) => Self::File(output.name_target(error)),
            Self::Checkpoint(CheckpointError::File(error)) => Self::File(output.name_target(error)),
            other => other,
        }
    }

    /// Names the matrix in an error of its form.
    pub(super) fn of_form(name: &MatrixName) -> impl FnOnce(FormError) -> Self {
        let name = name.clone();
        move |source| Self::Form { name, source }
    }

    /// Names the matrix in an error of its decomposition.
    pub(super) fn of_linalg(name: &MatrixName) -> impl FnOnce(LinalgError) -> Self {
        let name = name.clone();
        move |source| Self::Linalg { name, source }
    }

    /// Whether the user stopped the work.
    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Interrupted(_)
                | Self::Checkpoint(CheckpointError::Interrupted(_))
                | Self::Calibration(CalibrationError::Interrupted(_))
        )
    }
}
