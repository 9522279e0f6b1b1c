//! What a choice of types may cost, and the choice.

use serde::{Deserialize, Serialize};

use super::costs::{TensorCosts, TypeCost, candidates};
use super::stacks::stacks;
use super::type_plan::TypePlanError;
use crate::calibrate::is_token_matrix;
use crate::ggml::TensorType;
use crate::plan::{Point, descend, least_loss, point_at};

/// What a choice of types may cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TypeBudget {
    /// The most bytes that the whole file may have.
    MaxBytes(u64),
    /// The mean number of bits that a weight of the projections may have, scales included.
    /// Embedding and head are not counted: they get the types that cost as much for what they save.
    Bits(f64),
}

impl TypeBudget {
    /// Refuses a budget that no choice of these types meets: a size that is too small, a number of
    /// bits that is too small or too large. `tensors` are the matrices with their shapes
    /// `[out, in]`, `rest` is the number of bytes that the file has besides them. Nothing is read.
    ///
    /// # Errors
    ///
    /// [`TypePlanError`].
    pub fn check(
        self,
        tensors: &[(String, [usize; 2])],
        types: &[TensorType],
        rest: u64,
    ) -> Result<(), TypePlanError> {
        let mut smallest_file = rest;
        let (mut fewest, mut most, mut weights) = (0u64, 0u64, 0u64);
        let stacks = stacks(tensors.iter().map(|(tensor, shape)| (tensor.as_str(), *shape)));
        for stack in stacks {
            let (shape, (tensor, _)) = (stack.shape, &tensors[stack.first()]);
            let padded = candidates(shape, types).map(|(_, bytes)| bytes).min();
            let stored: Vec<u64> =
                candidates(shape, types).map(|(dtype, _)| stored_bytes(dtype, shape)).collect();
            let (Some(padded), Some(least), Some(largest)) =
                (padded, stored.iter().min(), stored.iter().max())
            else {
                return Err(TypePlanError::NoType { tensor: tensor.clone(), columns: shape[1] });
            };
            smallest_file += padded;
            if !is_token_matrix(tensor) {
                fewest += least;
                most += largest;
                weights += weights_of(shape);
            }
        }
        match self {
            Self::MaxBytes(max_bytes) if smallest_file > max_bytes => {
                Err(TypePlanError::OutOfReach { max_bytes, reachable: smallest_file })
            }
            Self::Bits(bits)
                if bytes_for(bits, weights) < fewest
                    || bits * weights as f64 > 8.0 * most as f64 =>
            {
                Err(bits_out_of_reach(bits, fewest, most, weights))
            }
            _ => Ok(()),
        }
    }

    /// One candidate of each tensor, by its number among `candidates`, which are in order of
    /// increasing size.
    pub(super) fn choose(
        self,
        costs: &[TensorCosts],
        candidates: &[Vec<TypeCost>],
        rest: u64,
    ) -> Result<Vec<usize>, TypePlanError> {
        match self {
            Self::MaxBytes(max_bytes) => within_file(costs, candidates, rest, max_bytes),
            Self::Bits(bits) => within_bits(costs, candidates, bits),
        }
    }
}

fn within_file(
    costs: &[TensorCosts],
    candidates: &[Vec<TypeCost>],
    rest: u64,
    max_bytes: u64,
) -> Result<Vec<usize>, TypePlanError> {
    let out_of_reach =
        |least: u64| TypePlanError::OutOfReach { max_bytes, reachable: rest + least };
    let Some(budget) = max_bytes.checked_sub(rest) else {
        return Err(out_of_reach(candidates.iter().map(|of_one| of_one[0].bytes).sum()));
    };
    let point = |cost: &TypeCost| Point { cost: cost.bytes, loss: cost.loss };
    let curves: Vec<Vec<Point>> =
        candidates.iter().map(|of_one| of_one.iter().map(point).collect()).collect();
    let order = |a: usize, b: usize| costs[a].tensor.cmp(&costs[b].tensor);
    least_loss(&curves, budget, order).map_err(out_of_reach)
}

/// Projections share the budget. Embedding and head go down their own hulls as far as a byte saves
/// more than it would have where that budget ended.
fn within_bits(
    costs: &[TensorCosts],
    candidates: &[Vec<TypeCost>],
    bits: f64,
) -> Result<Vec<usize>, TypePlanError> {
    let curve = |index: usize| -> Vec<Point> {
        let point = |cost: &TypeCost| Point {
            cost: stored_bytes(cost.tensor_type, costs[index].shape),
            loss: cost.loss,
        };
        candidates[index].iter().map(point).collect()
    };
    let (of_tokens, projections): (Vec<usize>, Vec<usize>) =
        (0..costs.len()).partition(|index| is_token_matrix(&costs[*index].tensor));
    let curves: Vec<Vec<Point>> = projections.iter().map(|index| curve(*index)).collect();
    let weights: u64 = projections.iter().map(|index| weights_of(costs[*index].shape)).sum();
    let name = |number: usize| &costs[projections[number]].tensor;
    let found = descend(&curves, bytes_for(bits, weights), |a, b| name(a).cmp(name(b)));
    let found = found.map_err(|fewest| {
        let largest = |points: &Vec<Point>| points.last().map_or(0, |point| point.cost);
        bits_out_of_reach(bits, fewest, curves.iter().map(largest).sum(), weights)
    })?;
    let mut chosen = vec![0; costs.len()];
    for (index, at) in projections.iter().zip(found.chosen) {
        chosen[*index] = at;
    }
    for index in of_tokens {
        chosen[index] = point_at(&curve(index), found.price);
    }
    Ok(chosen)
}

fn bits_out_of_reach(bits: f64, fewest: u64, most: u64, weights: u64) -> TypePlanError {
    // As they are rounded, both can be reached.
    let hundredths = |bytes: u64| 800.0 * bytes as f64 / weights.max(1) as f64;
    let (least, most) = (hundredths(fewest).ceil() / 100.0, hundredths(most).floor() / 100.0);
    TypePlanError::BitsOutOfReach { bits, least, most }
}

/// The most bytes in which so many weights have no more than this mean number of bits.
fn bytes_for(bits: f64, weights: u64) -> u64 {
    (bits * weights as f64 / 8.0).floor() as u64
}

/// Bytes of a matrix that fills blocks, without padding.
pub(super) fn stored_bytes(dtype: TensorType, [rows, columns]: [usize; 2]) -> u64 {
    dtype.row_bytes(columns).unwrap_or(0) as u64 * rows as u64
}

pub(super) fn weights_of([rows, columns]: [usize; 2]) -> u64 {
    rows as u64 * columns as u64
}
