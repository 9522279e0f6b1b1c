use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::attach::NewParams;
use super::block_names::sets_of_based;
use super::blocks::{Blocks, live_shape, stored_blocks};
use super::error::FormError;
use super::factors::{U, V, rank_problem};
use super::form::{Form, FormAndShape, Kind, Shapes};
use super::matrix_form::{Made, MatrixForm};
use super::packed::{BASE, DOWN, NewFactors, NewPacked, UP, code};
use super::part::{Part, PartKind, PartSpec};
use super::rounding::{error_and_size, gap, sum};
use super::slots::{Codec, LiveSlot};
use super::work::Work;
use crate::linalg::{Cost, Matrix, Weighting};

/// Two factors `U V`, `X.V.weight [rank, in]` and `X.U.weight [out, rank]`, added to a matrix in blocks,
/// whose tensor is that of [`Blocks`]. The factors train, the blocks do not: this is what training
/// makes of [`PackedFactors`](super::PackedFactors).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasedFactors {
    /// The rank.
    pub rank: usize,
    /// What they are added to. `None` only in a model that trains: two factors alone are stored as
    /// [`Factors`](super::Factors).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Blocks>,
}

pub(super) const KIND: Kind = Kind { stored, live, sets: sets_of_based };

pub(super) fn stored(shape_of: &Shapes<'_>) -> Option<FormAndShape> {
    let [rank, columns] = shape_of(V)?.try_into().ok()?;
    let [rows, of_left] = shape_of(U)?.try_into().ok()?;
    let (base, shape) = stored_blocks(shape_of)?;
    let fits = shape == [rows, columns] && of_left == rank;
    fits.then_some((Form::BasedFactors(BasedFactors { rank, base: Some(base) }), shape))
}

fn live(shape_of: &Shapes<'_>, of_linear: bool) -> Option<FormAndShape> {
    let (base, _) = code::types_of(&shape_of("")?)?;
    let [columns, rank] = shape_of(DOWN)?.try_into().ok()?;
    let [_, rows] = shape_of(UP)?.try_into().ok()?;
    let form = Form::BasedFactors(BasedFactors { rank, base });
    (rank > 0).then_some((form, live_shape([rows, columns], of_linear)))
}

impl MatrixForm for BasedFactors {
    fn rank(&self) -> Option<usize> {
        self.base.is_none().then_some(self.rank)
    }

    fn problem(&self, shape: [usize; 2]) -> Option<String> {
        let Some(base) = self.base else {
            return Some("two factors without a base are the form `factors`".into());
        };
        rank_problem(self.rank, shape).or_else(|| base.problem(shape))
    }

    fn parameters(&self, [rows, columns]: [usize; 2]) -> u64 {
        let [rows, columns, rank] = [rows, columns, self.rank].map(|n| n as u64);
        let base = if self.base.is_some() { rows.saturating_mul(columns) } else { 0 };
        base.saturating_add(rank.saturating_mul(rows.saturating_add(columns)))
    }

    fn tensors(&self, shape @ [rows, columns]: [usize; 2]) -> Vec<PartSpec> {
        let part = |suffix, shape: [usize; 2]| {
            let (shape, kind) = (shape.into(), PartKind::Numbers);
            PartSpec { suffix, shape, kind }
        };
        let base = self.base.map(|base| base.part(shape));
        let factors = [part(V, [self.rank, columns]), part(U, [rows, self.rank])];
        base.into_iter().chain(factors).collect()
    }

    fn make(&self, matrix: &Matrix, norm: &Weighting) -> Result<Made, FormError> {
        let Some(base) = self.base else { return Err(FormError::Parts("packed")) };
        let (best, norm) = (norm.best(matrix)?, norm.of_best());
        let bytes = base.round(&best, &norm.feedback()?)?;
        let stored = base.unpack([best.rows(), best.cols()], &bytes)?;
        let factors = norm.factors(&gap(&best, &stored)?, self.rank)?;
        let all = sum(&stored, &factors.left.product(&factors.right)?)?;
        let (relative_error, size) = error_and_size(&norm, &best, &all)?;
        let numbers = [factors.right, factors.left].map(Part::Numbers);
        Ok(Made {
            parts: [Part::Blocks(bytes)].into_iter().chain(numbers).collect(),
            relative_error,
            size,
        })
    }

    fn cost_to_make(&self, shape @ [rows, columns]: [usize; 2]) -> Cost {
        Cost::of_factors(shape, self.rank) + Cost::of_product(shape, rows.min(columns))
    }

    fn merge(&self, shape: [usize; 2], parts: Vec<Part>) -> Result<Matrix, FormError> {
        let (base, right, left) = match (self.base, <[Part; 3]>::try_from(parts)) {
            (Some(base), Ok([Part::Blocks(bytes), Part::Numbers(right), Part::Numbers(left)])) => {
                (base.unpack(shape, &bytes)?, right, left)
            }
            _ => return Err(FormError::Parts("packed")),
        };
        sum(&base, &left.product(&right)?)
    }

    fn cost_to_merge(&self, shape: [usize; 2]) -> Cost {
        Cost::of_product(shape, self.rank)
    }

    fn work(&self, _shape: [usize; 2], parameters: u64) -> Work {
        Work::of(parameters, if self.base.is_some() { 3 } else { 2 }, self.rank)
    }

    fn slots(&self, _of_linear: bool) -> Option<&'static [LiveSlot]> {
        const fn number(param: &'static str, tensor: usize) -> LiveSlot {
            LiveSlot { param, tensor, codec: Codec::Transposed }
        }
        const OF_BASE: LiveSlot = LiveSlot { param: BASE, tensor: 0, codec: Codec::Blocks };
        const ALONE: [LiveSlot; 2] = [number(DOWN, 0), number(UP, 1)];
        const BASED: [LiveSlot; 3] = [OF_BASE, number(DOWN, 1), number(UP, 2)];
        Some(if self.base.is_some() { &BASED } else { &ALONE })
    }

    fn skeleton(
        &self,
        weight @ [first, second]: [usize; 2],
        of_linear: bool,
        _indices: &[Vec<i32>],
        device: &Device,
    ) -> Result<Option<NewParams>, FormError> {
        let shape = if of_linear { [second, first] } else { weight };
        if let Some(problem) = self.problem(shape) {
            return Err(FormError::Impossible(problem));
        }
        let factors = Some(NewFactors { rank: self.rank, tensor_type: None });
        Ok(Some(NewPacked::empty(self.base, factors, weight, of_linear, device)))
    }

    fn fmt_for_people(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rank = self.rank;
        match self.base {
            None => write!(f, "two factors of rank {rank}"),
            Some(base) => {
                base.fmt_for_people(f)?;
                write!(f, " and two factors of rank {rank}")
            }
        }
    }
}
