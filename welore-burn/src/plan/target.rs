use serde::{Deserialize, Serialize};

use crate::forms::{Form, Storage};
use crate::modules::MatrixName;
use crate::spectrum::MatrixSpectrum;
use crate::words::{number, number_of};

/// How far to reduce a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Effective rank reduction (ERR), in (0, 1): the share of all ranks to remove, also from
    /// matrices that then stay dense because of `min_ratio`.
    Err(f64),
    /// Effective rank reduction in (0, 1) to reach at least, if only ranks of factored matrices
    /// count. This is how the paper's authors count, so it is the figure to compare with theirs
    /// where `min_ratio` is above 0.
    ErrApplied(f64),
    /// Maximum share of the parameters of the planned matrices to keep, in (0, 1).
    KeepParams(f64),
    /// Maximum number of bytes of the whole model.
    MaxBytes(u64),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Err(err) => write!(f, "ERR {}", number(*err)),
            Self::ErrApplied(err) => write!(f, "applied ERR {}", number(*err)),
            Self::KeepParams(share) => write!(f, "a share of {} of the parameters", number(*share)),
            Self::MaxBytes(bytes) => f.write_str(&number_of(*bytes, "byte")),
        }
    }
}

/// Options of a plan, apart from its policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanOptions {
    /// How far to reduce the model.
    pub target: Target,
    /// Policies with a threshold factor a matrix only if it loses at least this share of its ranks,
    /// and at least one; in [0, 1). 0.5 is the paper's choice before fine-tuning, 0 its choice for
    /// compression alone. Policies that weigh errors choose the factored matrices themselves.
    pub min_ratio: f64,
    /// Round ranks up to a multiple of this (8, 16 or 64 suits hardware). At least 1.
    pub rank_multiple: usize,
    /// Keep a matrix dense if factoring would make it larger, with any policy and any target.
    pub never_grow: bool,
    /// How factored matrices are stored.
    pub storage: Storage,
}

impl PlanOptions {
    /// The paper's options for an effective rank reduction: `min_ratio` 0.5, any rank.
    pub fn new(err: f64) -> Self {
        Self::to(Target::Err(err))
    }

    /// The paper's options for any target.
    pub fn to(target: Target) -> Self {
        let storage = Storage::Factors;
        Self { target, min_ratio: 0.5, rank_multiple: 1, never_grow: false, storage }
    }

    /// Checks that every option is in its range, before spectra are measured.
    ///
    /// # Errors
    ///
    /// [`PlanError::Err`], [`PlanError::KeepParams`], [`PlanError::MinRatio`] and
    /// [`PlanError::RankMultiple`].
    pub fn check(&self) -> Result<(), PlanError> {
        let is_share = |share: f64| share > 0.0 && share < 1.0;
        match self.target {
            Target::Err(err) | Target::ErrApplied(err) if !is_share(err) => {
                return Err(PlanError::Err(err));
            }
            Target::KeepParams(share) if !is_share(share) => {
                return Err(PlanError::KeepParams(share));
            }
            _ => {}
        }
        if !(0.0..1.0).contains(&self.min_ratio) {
            return Err(PlanError::MinRatio(self.min_ratio));
        }
        if self.rank_multiple == 0 {
            return Err(PlanError::RankMultiple);
        }
        Ok(())
    }

    /// A rank rounded up to the multiple, but not above the full rank.
    pub(super) fn rounded(&self, exact: usize, full: usize) -> usize {
        exact.next_multiple_of(self.rank_multiple).min(full)
    }

    /// The form of a matrix that a policy with a threshold reduces to `rank`.
    pub(super) fn form_at(&self, spectrum: &MatrixSpectrum, rank: usize) -> Form {
        let (full, form) = (spectrum.full_rank(), self.storage.at_rank(rank));
        let reduction = (full - rank) as f64 / full as f64;
        let grows = form.parameters(spectrum.shape) > spectrum.parameters();
        let is_enough = rank < full && reduction >= self.min_ratio;
        match is_enough && !(grows && self.never_grow) {
            true => form,
            false => Form::dense(),
        }
    }

    /// The cost of a matrix in a form, in the unit of the target: ranks, parameters or bytes.
    pub(super) fn cost(&self, spectrum: &MatrixSpectrum, form: Form) -> u64 {
        match self.target {
            Target::Err(_) | Target::ErrApplied(_) => {
                form.rank().unwrap_or(spectrum.full_rank()) as u64
            }
            Target::KeepParams(_) => form.parameters(spectrum.shape),
            Target::MaxBytes(_) => form.bytes(spectrum.shape, spectrum.dtype),
        }
    }
}

/// Why a plan cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The effective rank reduction is out of range.
    #[error("ERR {} is not between 0 and 1", number(*.0))]
    Err(f64),
    /// The share of parameters is out of range.
    #[error("a share of {} of the parameters is not between 0 and 1", number(*.0))]
    KeepParams(f64),
    /// The minimum ratio is out of range.
    #[error("min_ratio {} is not in [0, 1)", number(*.0))]
    MinRatio(f64),
    /// The rank multiple is 0.
    #[error("the rank multiple must be at least 1")]
    RankMultiple,
    /// The spectra are impossible.
    #[error("impossible spectra: {reason}")]
    Spectra {
        /// What is wrong.
        reason: String,
    },
    /// A policy gives scores or losses that cannot be used.
    #[error("matrix `{name}`: the policy gives {reason}")]
    Scores {
        /// Name of the matrix.
        name: MatrixName,
        /// What it gives.
        reason: String,
    },
    /// Every matrix keeps at least one rank (or one multiple), so some targets cannot be met.
    #[error("{target} is out of reach; the nearest is {}{}", possible(*reachable), multiple(*rank_multiple))]
    OutOfReach {
        /// The requested target.
        target: Target,
        /// The furthest target that can be reached.
        reachable: Target,
        /// The requested rank multiple.
        rank_multiple: usize,
    },
    /// The choices of a policy are impossible.
    #[error("policy `{policy}`: {reason}")]
    Allocation {
        /// The policy.
        policy: String,
        /// What is wrong.
        reason: String,
    },
    /// The policy needs spectra in another unit, which a calibration with gradients gives.
    #[error(
        "policy `{policy}` needs spectra in units of the loss, from a calibration with gradients"
    )]
    NotCalibrated {
        /// The policy.
        policy: &'static str,
    },
    /// The policy needs probes of all matrices.
    #[error("policy `{policy}` needs a calibration with probes")]
    NotProbed {
        /// The policy.
        policy: &'static str,
    },
}

/// A target that can be reached, with digits that people read, and still within reach.
fn possible(target: Target) -> Target {
    match target {
        Target::Err(err) => Target::Err((err * 1e4).floor() / 1e4),
        Target::ErrApplied(err) => Target::ErrApplied((err * 1e4).floor() / 1e4),
        Target::KeepParams(share) => Target::KeepParams((share * 1e4).ceil() / 1e4),
        target @ Target::MaxBytes(_) => target,
    }
}

fn multiple(rank_multiple: usize) -> String {
    match rank_multiple {
        1 => String::new(),
        n => format!(" with a rank multiple of {n}"),
    }
}
