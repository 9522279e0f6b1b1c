use serde::{Deserialize, Serialize};

use crate::forms::{Form, Storage};
use crate::spectrum::MatrixSpectrum;

/// How far a model is to be reduced.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Effective rank reduction, in (0, 1): the share of all ranks to remove, the paper's target.
    Err(f64),
    /// Share of the parameters of the planned matrices to keep at most, in (0, 1).
    KeepParams(f64),
    /// Bytes that the whole model takes at most.
    MaxBytes(u64),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Err(err) => write!(f, "ERR {err}"),
            Self::KeepParams(share) => write!(f, "a share of {share} of the parameters"),
            Self::MaxBytes(bytes) => write!(f, "{bytes} bytes"),
        }
    }
}

/// What a plan should meet, beside its policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanOptions {
    /// How far the model is to be reduced.
    pub target: Target,
    /// Policies that cut at a threshold factor a matrix only if its reduction exceeds this, in
    /// [0, 1). 0.5 is the paper's choice before fine-tuning, 0 its choice for compression alone.
    /// Policies that weigh errors choose classes themselves.
    pub min_ratio: f64,
    /// Round ranks up to a multiple of this (hardware likes 8, 16, 64). At least 1.
    pub rank_multiple: usize,
    /// Keep a matrix dense where factoring would make it larger.
    pub never_grow: bool,
    /// How factored matrices are stored.
    pub storage: Storage,
}

impl PlanOptions {
    /// The paper's options at an effective rank reduction: `min_ratio` 0.5, any rank.
    pub fn new(err: f64) -> Self {
        Self::to(Target::Err(err))
    }

    /// The paper's options at any target.
    pub fn to(target: Target) -> Self {
        let storage = Storage::Factors;
        Self { target, min_ratio: 0.5, rank_multiple: 1, never_grow: false, storage }
    }

    /// Checks every option against its range, before spectra cost time.
    ///
    /// # Errors
    ///
    /// [`PlanError`], but not [`PlanError::OutOfReach`].
    pub fn check(&self) -> Result<(), PlanError> {
        let is_share = |share: f64| share > 0.0 && share < 1.0;
        match self.target {
            Target::Err(err) if !is_share(err) => return Err(PlanError::Err(err)),
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

    /// A rank rounded up to the multiple, as far as the matrix allows.
    pub(super) fn rounded(&self, exact: usize, full: usize) -> usize {
        exact.next_multiple_of(self.rank_multiple).min(full)
    }

    /// The form of a matrix whose ranks a threshold policy cuts down to `rank`.
    pub(super) fn form_at(&self, spectrum: &MatrixSpectrum, rank: usize) -> Form {
        let (full, form) = (spectrum.full_rank(), self.storage.at_rank(rank));
        let reduction = (full - rank) as f64 / full as f64;
        let grows = form.parameters(spectrum.shape) > spectrum.parameters();
        match reduction > self.min_ratio && !(grows && self.never_grow) {
            true => form,
            false => Form::dense(),
        }
    }

    /// What a matrix adds in a form to what the target bounds: ranks, parameters or bytes.
    pub(super) fn cost(&self, spectrum: &MatrixSpectrum, form: Form) -> u64 {
        match self.target {
            Target::Err(_) => form.rank().unwrap_or(spectrum.full_rank()) as u64,
            Target::KeepParams(_) => form.parameters(spectrum.shape),
            Target::MaxBytes(_) => form.bytes(spectrum.shape, spectrum.dtype),
        }
    }
}

/// A target that cannot be met.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The target is not a share.
    #[error("ERR {0} is not between 0 and 1")]
    Err(f64),
    /// The share of parameters is none.
    #[error("a share of {0} of the parameters is not between 0 and 1")]
    KeepParams(f64),
    /// The minimum ratio is not a share.
    #[error("min_ratio {0} is not in [0, 1)")]
    MinRatio(f64),
    /// The rank multiple is 0.
    #[error("the rank multiple must be at least 1")]
    RankMultiple,
    /// Every matrix keeps at least one rank (or one multiple), so not all can be removed.
    #[error("{target} is out of reach: {reachable} is possible{}", multiple(*rank_multiple))]
    OutOfReach {
        /// Target asked for.
        target: Target,
        /// The furthest one that can be reached.
        reachable: Target,
        /// The rank multiple asked for.
        rank_multiple: usize,
    },
    /// What a policy chose is impossible.
    #[error("policy `{policy}`: {reason}")]
    Allocation {
        /// The policy.
        policy: String,
        /// What is wrong.
        reason: String,
    },
    /// The policy weighs errors in units of the loss, and these spectra are not.
    #[error("policy `{policy}` needs spectra in units of the loss, which come of a calibration")]
    NotCalibrated {
        /// The policy.
        policy: &'static str,
    },
}

fn multiple(rank_multiple: usize) -> String {
    match rank_multiple {
        1 => String::new(),
        n => format!(" with a rank multiple of {n}"),
    }
}
