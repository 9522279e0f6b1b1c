use serde::{Deserialize, Serialize};

use super::limits::Constraint;
use crate::forms::{Form, Storage};
use crate::modules::{MatrixName, PatternError, Selection};
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
#[derive(Debug, Clone, PartialEq)]
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
    /// Keep a matrix dense if factoring would save less than this share of its parameters, with any
    /// policy and any target; in [0, 1). 0 sets no limit, so that matrices may even grow. What
    /// matrices that stay dense cost is saved elsewhere.
    pub min_saving: f64,
    /// The lowest rank of a factored matrix, with any policy and any target. Matrices that have no
    /// more ranks stay dense.
    pub min_rank: Option<usize>,
    /// The highest rank of a factored matrix, with any policy and any target. A matrix that would
    /// keep more ranks stays dense.
    pub max_rank: Option<usize>,
    /// How factored matrices are stored.
    pub storage: Storage,
    /// Matrices whose form is fixed. The others meet the target, which counts all of them. Ranks
    /// that are set need not be multiples of `rank_multiple`, and neither `min_ratio` nor
    /// `min_saving` concerns them; they must agree with `min_rank`, `max_rank` and `never_grow`.
    pub constraints: Vec<Constraint>,
}

impl PlanOptions {
    /// The default of `min_saving` for targets in parameters and bytes: a matrix that loses fewer
    /// of its parameters is hardly smaller, and slower.
    pub const MIN_SAVING: f64 = 0.05;

    /// The paper's options for an effective rank reduction: `min_ratio` 0.5, any rank.
    pub fn new(err: f64) -> Self {
        Self::to(Target::Err(err))
    }

    /// The paper's options for any target. With a target in parameters or bytes, factoring a matrix
    /// has to save [`MIN_SAVING`](PlanOptions::MIN_SAVING); the paper has no such limit.
    pub fn to(target: Target) -> Self {
        let min_saving = match target {
            Target::Err(_) | Target::ErrApplied(_) => 0.0,
            Target::KeepParams(_) | Target::MaxBytes(_) => Self::MIN_SAVING,
        };
        Self {
            target,
            min_ratio: 0.5,
            rank_multiple: 1,
            never_grow: false,
            min_saving,
            min_rank: None,
            max_rank: None,
            storage: Storage::Factors,
            constraints: Vec::new(),
        }
    }

    /// Checks that every option is in its range, before spectra are measured.
    ///
    /// # Errors
    ///
    /// [`PlanError::Err`], [`PlanError::KeepParams`], [`PlanError::MinRatio`],
    /// [`PlanError::MinSaving`], [`PlanError::RankMultiple`], [`PlanError::RankRange`] and
    /// [`PlanError::Pattern`].
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
        if !(0.0..1.0).contains(&self.min_saving) {
            return Err(PlanError::MinSaving(self.min_saving));
        }
        let min = self.least_rank();
        if let Some(max) = self.max_rank.filter(|max| *max < min) {
            return Err(PlanError::RankRange { min, max });
        }
        Selection::of(self.constraints.iter().map(|constraint| &constraint.pattern))?;
        Ok(())
    }

    /// A rank rounded up to the multiple, but not above the full rank.
    pub(super) fn rounded(&self, exact: usize, full: usize) -> usize {
        exact.next_multiple_of(self.rank_multiple).min(full)
    }

    /// The form of a matrix that a policy with a threshold reduces to `rank`.
    pub(super) fn form_at(&self, spectrum: &MatrixSpectrum, rank: usize) -> Form {
        let full = spectrum.full_rank();
        let reduction = (full - rank) as f64 / full as f64;
        match self.factored_at(spectrum.shape, rank) {
            Some(form) if reduction >= self.min_ratio => form,
            _ => Form::dense(),
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
    /// The minimum saving is out of range.
    #[error("min_saving {} is not in [0, 1)", number(*.0))]
    MinSaving(f64),
    /// There is no rank between the limits.
    #[error("max_rank {max} is below min_rank {min}")]
    RankRange {
        /// The lowest rank.
        min: usize,
        /// The highest rank.
        max: usize,
    },
    /// The pattern of a constraint is not one.
    #[error("{0}")]
    Pattern(#[from] PatternError),
    /// The pattern of a constraint matches no matrix.
    #[error("no planned matrix matches `{pattern}`")]
    UnmatchedPattern {
        /// The pattern.
        pattern: String,
        /// The pattern that was probably meant, if one comes close.
        meant: Option<String>,
    },
    /// A matrix cannot be what its constraints ask for.
    #[error("matrix `{name}`: {reason}")]
    Constraint {
        /// Name of the matrix.
        name: MatrixName,
        /// What is wrong.
        reason: String,
    },
    /// Ranks that are set remove more than a policy with a threshold may remove in all.
    #[error(
        "the ranks that are set remove a share of {} of all ranks, more than ERR {}",
        number((*removed * 1e4).round() / 1e4),
        number(*err)
    )]
    SetBeyond {
        /// The requested effective rank reduction.
        err: f64,
        /// The share of all ranks that is removed.
        removed: f64,
    },
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
    #[error(
        "{target} is out of reach; the nearest is {}{}",
        possible(*reachable),
        under(*rank_multiple, *min_rank, *fixed)
    )]
    OutOfReach {
        /// The requested target.
        target: Target,
        /// The furthest target that can be reached.
        reachable: Target,
        /// The requested rank multiple.
        rank_multiple: usize,
        /// The requested lowest rank.
        min_rank: Option<usize>,
        /// The number of matrices whose form is fixed.
        fixed: usize,
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
    /// The policy measures plans on the model, which spectra are not.
    #[error("policy `{policy}` searches: it needs the model and a text")]
    NotSearched {
        /// The policy.
        policy: &'static str,
    },
    /// The policy needs probes, and no matrix has one.
    #[error("policy `{policy}` needs a calibration with probes")]
    NotProbed {
        /// The policy.
        policy: &'static str,
    },
    /// The policy needs probes, and a matrix has none in a model without experts, where all see the text.
    #[error("policy `{policy}` needs a probe of every matrix, and `{name}` has none")]
    Unprobed {
        /// The policy.
        policy: &'static str,
        /// The first such matrix.
        name: MatrixName,
    },
    /// The policy needs probes, and all are 0.
    #[error("policy `{policy}` needs probes above 0: by these, no matrix costs anything")]
    ZeroProbes {
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

/// `1 matrix`, `2 matrices`.
fn matrices(count: usize) -> String {
    format!("{count} {}", if count == 1 { "matrix" } else { "matrices" })
}

/// The options that limit how far a plan reaches.
fn under(rank_multiple: usize, min_rank: Option<usize>, fixed: usize) -> String {
    let limits = [
        (rank_multiple > 1).then(|| format!("a rank multiple of {rank_multiple}")),
        min_rank.map(|rank| format!("min_rank {rank}")),
        (fixed > 0).then(|| format!("{} fixed", matrices(fixed))),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    match limits.is_empty() {
        true => String::new(),
        false => format!(" with {}", limits.join(" and ")),
    }
}
