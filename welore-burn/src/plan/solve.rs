use super::matrix_plan::MatrixPlan;
use super::plan_file::RankPlan;
use super::policy::{PolicyReads, RankPolicy};
use super::problem::{Allocation, Choice, RankProblem};
use super::target::{PlanError, PlanOptions};
use crate::spectrum::{MatrixSpectrum, PROBE, Spectra};

/// Makes a plan: lets the policy choose ranks and forms, and computes the totals.
///
/// # Errors
///
/// [`PlanError`] for options out of range, for constraints that cannot be met, for impossible
/// spectra and those that lack what the policy needs, for a policy that searches, for a target out of reach, and for a policy
/// that gives unusable scores or makes impossible choices.
pub fn make_plan(
    spectra: &Spectra,
    policy: &dyn RankPolicy,
    options: &PlanOptions,
) -> Result<RankPlan, PlanError> {
    let problem = RankProblem { spectra, options };
    problem.check()?;
    let fixed = problem.fixed()?;
    check_spectra(spectra, policy)?;
    let Allocation { choices, threshold, min_ratio } = policy.allocate(&problem)?;
    let impossible =
        |reason: String| PlanError::Allocation { policy: policy.name().into(), reason };
    let (chosen, asked) = (choices.len(), spectra.matrices.len());
    if chosen != asked {
        return Err(impossible(format!("{chosen} choices for {asked} matrices")));
    }
    let pairs = spectra.matrices.iter().zip(choices);
    let matrices = pairs.map(|(spectrum, choice)| plan_matrix(spectrum, choice)).collect();
    let mut plan = RankPlan::new(spectra.source.clone(), spectra.model, matrices)
        .map_err(|error| impossible(error.to_string()))?;
    for (matrix, fixed) in plan.matrices.iter_mut().zip(fixed) {
        matrix.fixed = fixed.is_some();
        let broken = options.broken_limit(matrix.shape, matrix.form);
        let name = &matrix.name;
        match (fixed, broken) {
            (Some(choice), _) if choice.form != matrix.form => {
                return Err(impossible(format!("`{name}` has another form than the fixed one")));
            }
            (None, Some(limit)) => return Err(impossible(format!("`{name}` {limit}"))),
            _ => {}
        }
    }
    plan.totals = plan.totals.estimated(&spectra.matrices, spectra.unit, &plan.matrices);
    plan.policy = policy.name().into();
    plan.unit = spectra.unit;
    plan.calibration = spectra.calibration.clone();
    plan.target = Some(options.target);
    plan.threshold = threshold;
    // One that had no effect is not stated.
    plan.min_ratio = min_ratio.unwrap_or(0.0);
    plan.rank_multiple = options.rank_multiple;
    plan.never_grow = options.never_grow;
    plan.min_saving = options.min_saving;
    plan.min_rank = options.min_rank;
    plan.max_rank = options.max_rank;
    Ok(plan)
}

/// Checks that the spectra have what the policy needs.
fn check_spectra(spectra: &Spectra, policy: &dyn RankPolicy) -> Result<(), PlanError> {
    let PolicyReads { unit, probes, searches, .. } = policy.reads();
    if searches.is_some() {
        return Err(PlanError::NotSearched { policy: policy.name() });
    }
    if unit.is_some_and(|unit| unit != spectra.unit) {
        return Err(PlanError::NotCalibrated { policy: policy.name() });
    }
    if probes { check_probes(spectra, policy.name()) } else { Ok(()) }
}

/// Checks that there are probes, some of them above 0, and that only models with experts lack any.
fn check_probes(spectra: &Spectra, policy: &'static str) -> Result<(), PlanError> {
    let probed = spectra.matrices.iter().filter_map(|matrix| matrix.measurement(PROBE));
    let Some(largest) = probed.reduce(f64::max) else {
        return Err(PlanError::NotProbed { policy });
    };
    let mut unprobed = spectra.matrices.iter().filter(|m| m.measurement(PROBE).is_none());
    let has_experts = spectra.matrices.iter().any(|matrix| matrix.name.is_of_expert());
    match unprobed.next() {
        Some(matrix) if !has_experts => {
            Err(PlanError::Unprobed { policy, name: matrix.name.clone() })
        }
        _ if largest <= 0.0 => Err(PlanError::ZeroProbes { policy }),
        _ => Ok(()),
    }
}

fn plan_matrix(spectrum: &MatrixSpectrum, Choice { rank, form }: Choice) -> MatrixPlan {
    let matrix = MatrixPlan::new(spectrum.name.clone(), spectrum.shape, form, spectrum.dtype);
    MatrixPlan { rank, digest: spectrum.digest.clone(), ..matrix }
}
