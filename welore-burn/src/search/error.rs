use std::path::PathBuf;

use crate::calibrate::CalibrationError;
use crate::eval::{EvalError, LogitsError};
use crate::files::FileError;
use crate::forms::FormError;
use crate::linalg::LinalgError;
use crate::modules::MatrixName;
use crate::plan::PlanError;
use crate::progress::Interrupted;
use crate::workers::Oversized;

/// Why ranks cannot be searched for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SearchError {
    /// The number of plans to measure is out of range.
    #[error("a search measures between 1 and {most} plans, not {asked}")]
    Evaluations {
        /// What was asked for.
        asked: usize,
        /// The most that are measured.
        most: usize,
    },
    /// The policy does not say what to vary.
    #[error("policy `{policy}` does not search")]
    NoSpace {
        /// The policy.
        policy: &'static str,
    },
    /// The spectra were measured in other norms than those in which matrices are factored.
    #[error("the spectra were measured in other norms, or with another calibration")]
    OtherNorms,
    /// The file is not the journal of a search.
    #[error("{path}: not the journal of a search", path = path.display())]
    NotJournal {
        /// The file.
        path: PathBuf,
    },
    /// The journal was written by another version.
    #[error("{path}: version {version} of search journals is not supported", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The journal is that of another search.
    #[error(
        "{path}: the journal of another search (another model, calibration, text, target, seed or \
         policy)",
        path = path.display()
    )]
    OtherSearch {
        /// The file.
        path: PathBuf,
    },
    /// The plan from which the search starts breaks the model.
    #[error("the plan that the search starts from gives predictions that are not finite")]
    BrokenStart,
    /// No plan can be made.
    #[error("{0}")]
    Plan(#[from] PlanError),
    /// The text cannot be measured.
    #[error("{0}")]
    Eval(#[from] EvalError),
    /// The dense model's predictions cannot be kept or compared with.
    #[error("{0}")]
    Logits(#[from] LogitsError),
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// The calibration cannot be used.
    #[error("{0}")]
    Calibration(#[from] CalibrationError),
    /// A matrix does not fit the memory limit.
    #[error("{0}")]
    Oversized(#[from] Oversized),
    /// The model lacks a matrix of the spectra.
    #[error("the model has no matrix `{name}`")]
    Missing {
        /// Name of the matrix.
        name: MatrixName,
    },
    /// A matrix cannot be factored.
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
    /// What was measured could not be fitted.
    #[error("what was measured cannot be fitted: {0}")]
    Fit(LinalgError),
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

impl SearchError {
    /// Whether the user stopped the work.
    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            Self::Interrupted(_)
                | Self::Eval(EvalError::Interrupted(_))
                | Self::Logits(LogitsError::Eval(EvalError::Interrupted(_)))
        )
    }
}
