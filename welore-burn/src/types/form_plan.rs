//! The form of every matrix within a budget of bytes.

use super::form_costs::{FormCost, FormCosts};
use super::type_plan::TypePlanError;
use crate::checkpoint::Checkpoint;
use crate::modules::MatrixName;
use crate::plan::{MatrixPlan, Point, RankPlan, Target, least_loss};
use crate::spectrum::{ModelSize, SpectrumUnit};

/// The policy of plans that choose among forms.
const POLICY: &str = "mixed";

/// Chooses the forms that raise the loss least, in a model of at most so many bytes: those of the
/// tensors of all files together, as [`Checkpoint::bytes`] counts them.
///
/// The budget is never exceeded, and what is left of it is too little for any form that would lose
/// less.
///
/// # Errors
///
/// [`TypePlanError`].
pub fn plan_forms(
    source: impl Into<String>,
    calibration: &str,
    checkpoint: &Checkpoint,
    costs: &[FormCosts],
    max_bytes: u64,
) -> Result<RankPlan, TypePlanError> {
    let size = ModelSize { parameters: checkpoint.parameters(), bytes: checkpoint.bytes() };
    let stored = |of: &FormCosts| checkpoint.meta(&of.tensor).map_or(0, |meta| meta.bytes());
    let rest = size.bytes.saturating_sub(costs.iter().map(stored).sum());
    let candidates = costs.iter().map(useful).collect::<Result<Vec<_>, _>>()?;
    let out_of_reach =
        |least: u64| TypePlanError::OutOfReach { max_bytes, reachable: rest + least };
    let Some(budget) = max_bytes.checked_sub(rest) else {
        return Err(out_of_reach(candidates.iter().map(|of_one| of_one[0].bytes).sum()));
    };
    let point = |cost: &FormCost| Point { cost: cost.bytes, loss: cost.loss };
    let curves: Vec<Vec<Point>> =
        candidates.iter().map(|of_one| of_one.iter().map(point).collect()).collect();
    let order = |a: usize, b: usize| costs[a].tensor.cmp(&costs[b].tensor);
    let chosen = least_loss(&curves, budget, order).map_err(out_of_reach)?;
    let mut expected = 0.0;
    let matrices = costs.iter().zip(candidates).zip(chosen).filter_map(|((of, forms), at)| {
        let FormCost { form, loss, .. } = forms[at];
        expected += loss;
        let name = MatrixName::of_weight(&of.tensor)?;
        let dtype = checkpoint.meta(&of.tensor)?.dtype;
        let matrix = MatrixPlan::new(name, of.shape, form, dtype);
        Some(MatrixPlan { digest: Some(of.digest.clone()), ..matrix })
    });
    let matrices = matrices.collect();
    let mut plan = RankPlan::new(source, size, matrices)
        .map_err(|error| TypePlanError::Impossible(error.to_string()))?;
    plan.policy = POLICY.into();
    plan.unit = SpectrumUnit::Loss;
    plan.calibration = Some(calibration.into());
    plan.target = Some(Target::MaxBytes(max_bytes));
    plan.totals.expected_loss = Some(expected);
    Ok(plan)
}

/// The candidates of a matrix in order of increasing size; of several of one size, the best.
fn useful(costs: &FormCosts) -> Result<Vec<FormCost>, TypePlanError> {
    let mut candidates = costs.candidates.clone();
    candidates.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
    candidates.dedup_by_key(|candidate| candidate.bytes);
    match candidates.is_empty() {
        true => {
            let (tensor, columns) = (costs.tensor.clone(), costs.shape[1]);
            Err(TypePlanError::NoType { tensor, columns })
        }
        false => Ok(candidates),
    }
}
