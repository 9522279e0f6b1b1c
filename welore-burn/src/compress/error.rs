use std::path::PathBuf;

use crate::adapters::AdapterError;
use crate::calibrate::CalibrationError;
use crate::checkpoint::CheckpointError;
use crate::files::{FileError, OutputDir};
use crate::forms::FormError;
use crate::linalg::LinalgError;
use crate::model::ConfigError;
use crate::modules::MatrixName;
use crate::plan::ReadPlanError;
use crate::progress::Interrupted;
use crate::workers::Oversized;

/// Why a plan cannot be carried out, or a model cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// A model directory cannot be read or written.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// An adapter does not fit the model.
    #[error("{0}")]
    Adapter(#[from] AdapterError),
    /// The calibration cannot be used.
    #[error("{0}")]
    Calibration(#[from] CalibrationError),
    /// A matrix does not fit the memory limit.
    #[error("{0}")]
    Oversized(#[from] Oversized),
    /// The plan does not belong to these weights.
    #[error("the plan was made for another model: {reason}")]
    ForeignPlan {
        /// What differs.
        reason: String,
    },
    /// A matrix is not dense, as compressing it requires, or cannot have the planned form.
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
    /// The plan in a compressed directory cannot be read.
    #[error("{0}")]
    PlanFile(#[from] ReadPlanError),
    /// The configuration of a model to convert cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// There is nothing to merge.
    #[error("{dir}: no matrix is compressed, so the model is dense already", dir = dir.display())]
    NotCompressed {
        /// The model directory.
        dir: PathBuf,
    },
    /// Compressing block by block needs the loaded model.
    #[error("to compress block by block, the model must be loaded")]
    NeedsModel,
    /// Following the dense model needs the inputs of a matrix.
    #[error("sequential compression needs the norm of a calibration, not that of the weights")]
    NeedsCalibration,
    /// The calibration contains no text.
    #[error("the calibration contains no text, which compressing block by block needs")]
    NoText,
    /// A compressed block has or computes values that are infinite or not a number.
    #[error("block {block} of the compressed model has values that are not finite")]
    NotFinite {
        /// Number of the block, from 1.
        block: usize,
    },
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

impl CompressError {
    /// Replaces the hidden path of the output directory by its target.
    pub(super) fn about(self, output: &OutputDir) -> Self {
        match self {
            Self::File(error) => Self::File(output.name_target(error)),
            Self::Checkpoint(error) => match error.about(output) {
                CheckpointError::File(error) => Self::File(error),
                other => Self::Checkpoint(other),
            },
            other => other,
        }
    }

    /// Adds the name of the matrix to an error of its form.
    pub(super) fn of_form(name: &MatrixName) -> impl FnOnce(FormError) -> Self {
        let name = name.clone();
        move |source| Self::Form { name, source }
    }

    /// Adds the name of the matrix to an error of its decomposition.
    pub(super) fn of_linalg(name: &MatrixName) -> impl FnOnce(LinalgError) -> Self {
        let name = name.clone();
        move |source| Self::Linalg { name, source }
    }

    /// Adds the name of the matrix to an error of bringing it into its form.
    pub(super) fn of_making(name: &MatrixName) -> impl FnOnce(FormError) -> Self {
        let name = name.clone();
        move |source| match source {
            FormError::Linalg(source) => Self::Linalg { name, source },
            source => Self::Form { name, source },
        }
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
