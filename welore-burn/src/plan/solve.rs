use super::plan_file::{FORMAT, MatrixPlan, PlanTotals, RankPlan, VERSION};
use super::policy::RankPolicy;
use crate::spectrum::{MatrixSpectrum, Spectra};

/// What a plan should meet, beside its policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanOptions {
    /// Effective rank reduction to reach, in (0, 1): the share of all ranks to remove.
    pub err: f64,
    /// Factor a matrix only if its reduction exceeds this, in [0, 1). 0.5 is the paper's
    /// choice before fine-tuning, 0 its choice for compression alone.
    pub min_ratio: f64,
    /// Round ranks up to a multiple of this (hardware likes 8, 16, 64). At least 1.
    pub rank_multiple: usize,
    /// Keep a matrix dense where factoring would make it larger.
    pub never_grow: bool,
}

impl PlanOptions {
    /// The paper's options at a target: `min_ratio` 0.5, any rank.
    pub fn new(err: f64) -> Self {
        Self { err, min_ratio: 0.5, rank_multiple: 1, never_grow: false }
    }

    /// Checks every option against its range, before spectra cost time.
    ///
    /// # Errors
    ///
    /// [`PlanError`], but not [`PlanError::OutOfReach`].
    pub fn check(&self) -> Result<(), PlanError> {
        if !(self.err > 0.0 && self.err < 1.0) {
            return Err(PlanError::Err(self.err));
        }
        if !(0.0..1.0).contains(&self.min_ratio) {
            return Err(PlanError::MinRatio(self.min_ratio));
        }
        if self.rank_multiple == 0 {
            return Err(PlanError::RankMultiple);
        }
        Ok(())
    }
}

/// A target that cannot be met.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The target is not a share.
    #[error("ERR {0} is not between 0 and 1")]
    Err(f64),
    /// The minimum ratio is not a share.
    #[error("min_ratio {0} is not in [0, 1)")]
    MinRatio(f64),
    /// The rank multiple is 0.
    #[error("the rank multiple must be at least 1")]
    RankMultiple,
    /// Every matrix keeps at least one rank (or one multiple), so not all can be removed.
    #[error(
        "ERR {target} is out of reach: with a rank multiple of {rank_multiple} at most {reachable:.6} can be removed"
    )]
    OutOfReach {
        /// Target asked for.
        target: f64,
        /// Largest reachable effective rank reduction.
        reachable: f64,
        /// The rank multiple asked for.
        rank_multiple: usize,
    },
}

/// Makes a plan: removes the lowest scores over all matrices, up to the target.
///
/// The threshold is solved, not searched: with `N` ranks in all it is the `⌈err · N⌉`-th
/// lowest score, and ranks scoring below it go. So the achieved ERR never exceeds the target
/// and is at most one rank below it (with a rank multiple, one multiple). Ties go by name,
/// so the order of the input is irrelevant. Every matrix keeps at least one rank.
///
/// # Errors
///
/// [`PlanError`] for options out of range and for targets out of reach.
pub fn make_plan(
    spectra: &Spectra,
    policy: &dyn RankPolicy,
    options: &PlanOptions,
) -> Result<RankPlan, PlanError> {
    options.check()?;
    let (ranks, threshold) = allocate(spectra, policy, options)?;
    let matrices: Vec<_> = spectra
        .matrices
        .iter()
        .zip(&ranks)
        .map(|(spectrum, rank)| plan_matrix(spectrum, *rank, options))
        .collect();
    Ok(RankPlan {
        format: FORMAT.into(),
        version: VERSION,
        source: spectra.source.clone(),
        policy: policy.name().into(),
        target_err: options.err,
        threshold: Some(threshold).filter(|_| policy.has_threshold()),
        min_ratio: options.min_ratio,
        rank_multiple: options.rank_multiple,
        never_grow: options.never_grow,
        totals: PlanTotals::of(&matrices, spectra.model),
        matrices,
    })
}

/// The kept rank of every matrix, and the lowest score that is kept.
fn allocate(
    spectra: &Spectra,
    policy: &dyn RankPolicy,
    options: &PlanOptions,
) -> Result<(Vec<usize>, f64), PlanError> {
    let full: Vec<usize> = spectra.matrices.iter().map(MatrixSpectrum::full_rank).collect();
    let total: usize = full.iter().sum();
    let most = ((options.err * total as f64).ceil() as usize).saturating_sub(1);
    let rounded =
        |exact: usize, full: usize| exact.next_multiple_of(options.rank_multiple).min(full);

    let mut exact = full.clone();
    let mut removed = 0;
    for (score, index) in removal_order(spectra, policy) {
        if exact[index] == 1 {
            continue;
        }
        let gain = rounded(exact[index], full[index]) - rounded(exact[index] - 1, full[index]);
        if removed + gain > most {
            let ranks = exact.iter().zip(&full).map(|(exact, full)| rounded(*exact, *full));
            return Ok((ranks.collect(), score));
        }
        exact[index] -= 1;
        removed += gain;
    }
    Err(PlanError::OutOfReach {
        target: options.err,
        reachable: removed as f64 / total as f64,
        rank_multiple: options.rank_multiple,
    })
}

/// Every rank as its score and its matrix, in the order in which ranks go: lowest score
/// first, ties by name.
fn removal_order(spectra: &Spectra, policy: &dyn RankPolicy) -> Vec<(f64, usize)> {
    let mut order = Vec::new();
    for (index, spectrum) in spectra.matrices.iter().enumerate() {
        let scores = policy.scores(spectrum);
        debug_assert_eq!(scores.len(), spectrum.full_rank());
        order.extend(scores.into_iter().map(|score| (score, index)));
    }
    let name = |index: usize| &spectra.matrices[index].name;
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| name(a.1).cmp(name(b.1))));
    order
}

fn plan_matrix(spectrum: &MatrixSpectrum, rank: usize, options: &PlanOptions) -> MatrixPlan {
    let full_rank = spectrum.full_rank();
    let matrix = MatrixPlan {
        name: spectrum.name.clone(),
        shape: spectrum.shape,
        full_rank,
        rank,
        reduction: 0.0,
        low_rank: false,
        grows: false,
        parameters_before: 0,
        parameters_after: 0,
        dtype: spectrum.dtype,
        digest: spectrum.digest.clone(),
    }
    .recounted();
    let low_rank = matrix.reduction > options.min_ratio && !(matrix.grows && options.never_grow);
    MatrixPlan { low_rank, ..matrix }.recounted()
}
