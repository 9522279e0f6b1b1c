use burn::tensor::Device;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::attach::{FactorParams, NewParams, empty_param};
use super::based_factors;
use super::error::FormError;
use super::form::{Form, FormAndShape, Kind, Shapes};
use super::matrix_form::{Made, MatrixForm};
use super::part::{Part, PartKind, PartSpec};
use super::rounding::round_numbers;
use super::slots::{Codec, LiveSlot};
use super::work::Work;
use crate::linalg::{Cost, Matrix, Weighting};

/// Two factors `U V`, `r (m + n)` parameters: `X.V.weight [rank, in]` and `X.U.weight [out, rank]`,
/// as in the published WeLore checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Factors {
    /// The rank.
    pub rank: usize,
}

pub(super) const KIND: Kind = Kind { stored, live, sets: || vec![vec![V, U]] };

pub(super) const V: &str = "V.weight";
pub(super) const U: &str = "U.weight";

fn stored(shape_of: &Shapes<'_>) -> Option<FormAndShape> {
    if based_factors::stored(shape_of).is_some() {
        return None;
    }
    let [rank, d_input] = shape_of(V)?.try_into().ok()?;
    let [d_output, _] = shape_of(U)?.try_into().ok()?;
    Some((Form::factors(rank), [d_output, d_input]))
}

fn live(shape_of: &Shapes<'_>, _of_linear: bool) -> Option<FormAndShape> {
    if shape_of("low_rank.order").is_some() {
        return None;
    }
    let [d_input, rank] = shape_of("")?.try_into().ok()?;
    let [_, d_output] = shape_of("low_rank.up")?.try_into().ok()?;
    Some((Form::factors(rank), [d_output, d_input]))
}

/// Why a matrix cannot have this rank. `None` if it can.
pub(super) fn rank_problem(rank: usize, shape: [usize; 2]) -> Option<String> {
    let full = shape[0].min(shape[1]);
    (!(1..=full).contains(&rank)).then(|| format!("rank {rank} is not between 1 and {full}"))
}

impl MatrixForm for Factors {
    fn rank(&self) -> Option<usize> {
        Some(self.rank)
    }

    fn in_transformers(&self) -> Option<&'static str> {
        Some("factors")
    }

    fn problem(&self, shape: [usize; 2]) -> Option<String> {
        rank_problem(self.rank, shape)
    }

    fn tensors(&self, [d_output, d_input]: [usize; 2]) -> Vec<PartSpec> {
        let part = |suffix, shape: [usize; 2]| {
            let (shape, kind) = (shape.into(), PartKind::Numbers);
            PartSpec { suffix, shape, kind }
        };
        vec![part(V, [self.rank, d_input]), part(U, [d_output, self.rank])]
    }

    fn make(&self, matrix: &Matrix, norm: &Weighting) -> Result<Made, FormError> {
        let factors = norm.factors(matrix, self.rank)?;
        let (relative_error, size) = (factors.relative_error, factors.size);
        let parts = vec![Part::Numbers(factors.right), Part::Numbers(factors.left)];
        Ok(Made { parts, relative_error, size })
    }

    fn fitted(
        &self,
        parts: &[Part],
        best: &Matrix,
        norm: &Weighting,
        dtype: Dtype,
    ) -> Result<Option<Vec<Part>>, FormError> {
        if norm.is_plain() {
            // As in published checkpoints.
            return Ok(None);
        }
        let [Part::Numbers(right), Part::Numbers(left)] = parts else {
            return Err(FormError::Parts("factored"));
        };
        let [columns, rows] = norm.feedback()?;
        let between = norm.feedback_of_right(left)?;
        let right = round_numbers(right, dtype, [columns.as_deref(), Some(&between)])?;
        let left = norm.fit_left(best, &right)?;
        let between = norm.feedback_of_left(&right)?;
        let left = round_numbers(&left, dtype, [Some(&between), rows.as_deref()])?;
        Ok(Some(vec![Part::Numbers(right), Part::Numbers(left)]))
    }

    fn cost_to_make(&self, shape: [usize; 2]) -> Cost {
        Cost::of_factors(shape, self.rank)
    }

    fn merge(&self, _shape: [usize; 2], parts: Vec<Part>) -> Result<Matrix, FormError> {
        match <[Part; 2]>::try_from(parts) {
            Ok([Part::Numbers(v), Part::Numbers(u)]) => Ok(u.product(&v)?),
            _ => Err(FormError::Parts("factored")),
        }
    }

    fn cost_to_merge(&self, shape: [usize; 2]) -> Cost {
        Cost::of_product(shape, self.rank)
    }

    fn work(&self, _shape: [usize; 2], parameters: u64) -> Work {
        Work::of(parameters, 2, self.rank)
    }

    fn slots(&self, of_linear: bool) -> Option<&'static [LiveSlot]> {
        // W = U V. A linear layer holds the transposes, an embedding W itself.
        const LINEAR: [LiveSlot; 2] = [
            LiveSlot { param: "", tensor: 0, codec: Codec::Transposed },
            LiveSlot { param: "low_rank.up", tensor: 1, codec: Codec::Transposed },
        ];
        const OTHER: [LiveSlot; 2] = [
            LiveSlot { param: "", tensor: 1, codec: Codec::AsIs },
            LiveSlot { param: "low_rank.up", tensor: 0, codec: Codec::AsIs },
        ];
        Some(if of_linear { &LINEAR } else { &OTHER })
    }

    fn fmt_for_people(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "two factors of rank {}", self.rank)
    }

    fn skeleton(
        &self,
        [d_input, d_output]: [usize; 2],
        _of_linear: bool,
        _indices: &[Vec<i32>],
        device: &Device,
    ) -> Result<Option<NewParams>, FormError> {
        Ok(Some(NewParams::Factors(FactorParams {
            down: empty_param([d_input, self.rank], device),
            up: empty_param([self.rank, d_output], device),
            order: None,
        })))
    }
}
