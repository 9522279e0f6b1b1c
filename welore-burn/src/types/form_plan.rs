//! The form of every matrix within a budget of bytes.

use super::form_costs::{FormCost, FormCosts, by_size, least_bytes};
use super::type_plan::TypePlanError;
use crate::calibrate::is_token_matrix;
use crate::checkpoint::Checkpoint;
use crate::ggml::TensorType;
use crate::modules::MatrixName;
use crate::plan::{Candidate, MatrixPlan, Point, RankPlan, Target, least_loss};
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

/// The candidates of a matrix, of which there has to be one.
fn useful(costs: &FormCosts) -> Result<Vec<FormCost>, TypePlanError> {
    let candidates = by_size(costs.candidates.clone());
    match candidates.is_empty() {
        true => {
            let (tensor, shape) = (costs.tensor.clone(), costs.shape);
            Err(TypePlanError::NoForm { tensor, shape })
        }
        false => Ok(candidates),
    }
}

/// Refuses a budget that no forms of these kinds meet. `tensors` are the matrices with their shapes
/// `[out, in]`. Nothing is read.
///
/// # Errors
///
/// [`TypePlanError`].
pub fn check_form_budget(
    checkpoint: &Checkpoint,
    tensors: &[(String, [usize; 2])],
    kinds: &[Candidate],
    types: &[TensorType],
    max_bytes: u64,
) -> Result<(), TypePlanError> {
    let stored = |tensor: &str| checkpoint.meta(tensor).map_or(0, |meta| meta.bytes());
    let matrices: u64 = tensors.iter().map(|(tensor, _)| stored(tensor)).sum();
    let mut reachable = checkpoint.bytes().saturating_sub(matrices);
    for (tensor, shape) in tensors {
        let least = least_bytes(*shape, is_token_matrix(tensor), kinds, types);
        let (tensor, shape) = (tensor.clone(), *shape);
        reachable += least.ok_or(TypePlanError::NoForm { tensor, shape })?;
    }
    match reachable > max_bytes {
        true => Err(TypePlanError::OutOfReach { max_bytes, reachable }),
        false => Ok(()),
    }
}
