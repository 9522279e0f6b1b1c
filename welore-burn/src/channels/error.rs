use std::path::PathBuf;

use super::widths::ChannelPlanError;
use crate::calibrate::CalibrationError;
use crate::checkpoint::CheckpointError;
use crate::files::{FileError, OutputDir};
use crate::forms::Form;
use crate::linalg::LinalgError;
use crate::model::ConfigError;
use crate::modules::MatrixName;
use crate::plan::PlanError;
use crate::progress::Interrupted;
use crate::spectrum::SpectrumError;
use crate::workers::Oversized;

/// Why channels cannot be left out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelsError {
    /// The model cannot be read or written.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// The calibration cannot be used.
    #[error("{0}")]
    Calibration(#[from] CalibrationError),
    /// No widths meet the target.
    #[error("{0}")]
    Plan(#[from] ChannelPlanError),
    /// No ranks meet the target beside channels.
    #[error("{0}")]
    Ranks(#[from] PlanError),
    /// The matrices cannot be measured.
    #[error("{0}")]
    Spectrum(#[from] SpectrumError),
    /// A matrix is not dense.
    #[error("`{name}` is {form}, not dense")]
    NotDense {
        /// The matrix.
        name: MatrixName,
        /// Its form.
        form: Form,
    },
    /// The model has no gated MLP.
    #[error("{dir}: no MLP with gate, up and down projections", dir = dir.display())]
    NoMlp {
        /// The model directory.
        dir: PathBuf,
    },
    /// The model has experts, whose channels are not left out.
    #[error("{dir}: it has experts, and channels of experts cannot be left out", dir = dir.display())]
    Experts {
        /// The model directory.
        dir: PathBuf,
    },
    /// The plan does not belong to this model or to this calibration.
    #[error("the plan of channels was made for another model: {reason}")]
    Foreign {
        /// What differs.
        reason: String,
    },
    /// The configuration cannot be changed.
    #[error("{path}: {source}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ConfigError,
    },
    /// The second moments of an MLP cannot be used.
    #[error("`{name}`: {source}")]
    Linalg {
        /// The matrix whose inputs the channels are.
        name: MatrixName,
        /// Why.
        source: LinalgError,
    },
    /// An MLP does not fit the memory limit.
    #[error("{0}")]
    Oversized(#[from] Oversized),
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

impl ChannelsError {
    /// Replaces the hidden path of the output directory by its target.
    pub(super) fn about(self, output: &OutputDir) -> Self {
        match self {
            Self::File(error) => Self::File(output.name_target(error)),
            Self::Checkpoint(error) => Self::Checkpoint(error.about(output)),
            other => other,
        }
    }

    /// Adds the name of the matrix to an error of its second moments.
    pub(super) fn of_linalg(name: &MatrixName) -> impl Fn(LinalgError) -> Self + use<> {
        let name = name.clone();
        move |source| Self::Linalg { name: name.clone(), source }
    }
}
