use super::plan_file::{FORMAT, MatrixPlan, PlanTotals, RankPlan, VERSION};
use super::policy::RankPolicy;
use super::problem::{Choice, RankProblem};
use super::target::{PlanError, PlanOptions, Storage};
use crate::spectrum::{MatrixSpectrum, Spectra};

/// Makes a plan: lets the policy choose ranks and classes, and counts what comes of it.
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
    let allocation = policy.allocate(&RankProblem { spectra, options })?;
    let matrices: Vec<_> = spectra
        .matrices
        .iter()
        .zip(&allocation.choices)
        .map(|(spectrum, choice)| plan_matrix(spectrum, *choice, options))
        .collect();
    Ok(RankPlan {
        format: FORMAT.into(),
        version: VERSION,
        source: spectra.source.clone(),
        policy: policy.name().into(),
        unit: spectra.unit,
        calibration: spectra.calibration.clone(),
        target: options.target,
        threshold: allocation.threshold,
        min_ratio: options.min_ratio,
        rank_multiple: options.rank_multiple,
        never_grow: options.never_grow,
        totals: PlanTotals::of(&matrices, spectra.model),
        matrices,
    })
}

fn plan_matrix(spectrum: &MatrixSpectrum, choice: Choice, options: &PlanOptions) -> MatrixPlan {
    let Choice { rank, low_rank } = choice;
    MatrixPlan {
        name: spectrum.name.clone(),
        shape: spectrum.shape,
        full_rank: spectrum.full_rank(),
        rank,
        reduction: 0.0,
        low_rank,
        storage: if low_rank { options.storage } else { Storage::Factors },
        grows: false,
        parameters_before: 0,
        parameters_after: 0,
        dtype: spectrum.dtype,
        digest: spectrum.digest.clone(),
    }
    .recounted()
}
