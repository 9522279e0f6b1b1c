use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::attach::NewParams;
use super::block_names::{BlockNames, NAMES, sets_of_factors};
use super::blocks::{Blocks, live_shape, stored_blocks};
use super::error::FormError;
use super::factors::rank_problem;
use super::form::{Form, FormAndShape, Kind, Shapes};
use super::matrix_form::{Made, MatrixForm};
use super::packed::{BASE, LEFT, NewFactors, NewPacked, RIGHT, code};
use super::part::{Part, PartKind, PartSpec};
use super::rounding::{error_and_size, gap, round_into, sum, unpacked};
use super::slots::{Codec, LiveSlot};
use super::work::Work;
use crate::ggml::TensorType;
use crate::linalg::{Cost, Matrix, Weighting};
use crate::named::Named;

/// Most times that base and factors are made in turn.
const ROUNDS: usize = 4;

/// Two factors in blocks of one of llama.cpp's types, `X.V.weight.TYPE [rank, bytes of a row]` and
/// `X.U.weight_t.TYPE [rank, bytes of a column]`: the product `U V`, or, with a base, what is added to
/// the matrix in the blocks of the base, whose tensor is that of [`Blocks`].
///
/// When training begins, the factors become numbers, and the form [`BasedFactors`](super::BasedFactors).
///
/// The right factor is rounded first, and the left one fitted to what that became. With a base, base
/// and factors are made in turn, each for what the other leaves, until the error rises (LQ-LoRA, arXiv
/// 2311.12023), in the norm that they are made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedFactors {
    /// The rank.
    pub rank: usize,
    /// The type of both factors.
    #[serde(rename = "type")]
    pub tensor_type: TensorType,
    /// What they are added to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Blocks>,
}

pub(super) const KIND: Kind = Kind { stored, live, sets: sets_of_factors };

fn stored(shape_of: &Shapes<'_>) -> Option<FormAndShape> {
    let (form, shape) = NAMES.iter().find_map(|names| {
        let [rank, row_bytes] = shape_of(names.right)?.try_into().ok()?;
        let left = shape_of(names.left)?.try_into().ok()?;
        let tensor_type = names.tensor_type;
        let [_, columns] = Blocks { tensor_type, turned: false }.matrix_shape([rank, row_bytes])?;
        let [rows, of_left] = Blocks { tensor_type, turned: true }.matrix_shape(left)?;
        let form = PackedFactors { rank, tensor_type, base: None };
        (of_left == rank).then_some((form, [rows, columns]))
    })?;
    match stored_blocks(shape_of) {
        Some((base, of_base)) => {
            let form = PackedFactors { base: Some(base), ..form };
            (of_base == shape).then_some((Form::PackedFactors(form), shape))
        }
        None => Some((Form::PackedFactors(form), shape)),
    }
}

fn live(shape_of: &Shapes<'_>, of_linear: bool) -> Option<FormAndShape> {
    let (base, Some(tensor_type)) = code::types_of(&shape_of("")?)? else { return None };
    let matrix = |param: &str, turned: bool| {
        Blocks { tensor_type, turned }.matrix_shape(shape_of(param)?.try_into().ok()?)
    };
    let ([rank, columns], [rows, _]) = (matrix(RIGHT, false)?, matrix(LEFT, true)?);
    let form = Form::PackedFactors(PackedFactors { rank, tensor_type, base });
    Some((form, live_shape([rows, columns], of_linear)))
}

/// What was made, and how far from the matrix it is in the norm.
struct Attempt {
    parts: Vec<Part>,
    product: Matrix,
    error: f64,
    /// How large the matrix is in the norm.
    size: f64,
}

impl PackedFactors {
    fn names(self) -> Option<&'static BlockNames> {
        BlockNames::of(self.tensor_type)
    }

    /// The factors that come closest to a matrix, `[right, left]`, and their product as stored.
    fn factors_of(
        self,
        matrix: &Matrix,
        norm: &Weighting,
    ) -> Result<([Vec<u8>; 2], Matrix), FormError> {
        let (rank, of) = (self.rank, self.tensor_type);
        let found = norm.factors(matrix, rank)?;
        let [columns, rows] = norm.feedback()?;
        let between = norm.feedback_of_right(&found.left)?;
        let right = round_into(of, false, &found.right, [columns.as_deref(), Some(&between)])?;
        let stored_right = unpacked(of, false, [rank, matrix.cols()], &right)?;
        let left = norm.fit_left(matrix, &stored_right)?;
        let between = norm.feedback_of_left(&stored_right)?;
        let left = round_into(of, true, &left, [Some(&between), rows.as_deref()])?;
        let stored_left = unpacked(of, true, [matrix.rows(), rank], &left)?;
        Ok(([right, left], stored_left.product(&stored_right)?))
    }

    /// Factors alone.
    fn alone(self, best: &Matrix, norm: &Weighting) -> Result<Attempt, FormError> {
        let (factors, product) = self.factors_of(best, norm)?;
        let (error, size) = error_and_size(norm, best, &product)?;
        Ok(Attempt { parts: factors.map(Part::Blocks).into(), product, error, size })
    }

    /// The base for what `product` leaves of a matrix, and the factors for what the base leaves.
    fn based(
        self,
        base: Blocks,
        best: &Matrix,
        product: Option<&Matrix>,
        norm: &Weighting,
    ) -> Result<Attempt, FormError> {
        let shape = [best.rows(), best.cols()];
        let bytes = match product {
            Some(product) => base.round(&gap(best, product)?, &norm.feedback()?)?,
            None => base.round(best, &norm.feedback()?)?,
        };
        let stored = base.unpack(shape, &bytes)?;
        let ([right, left], product) = self.factors_of(&gap(best, &stored)?, norm)?;
        let (error, size) = error_and_size(norm, best, &sum(&stored, &product)?)?;
        let parts = [bytes, right, left].map(Part::Blocks).into();
        Ok(Attempt { parts, product, error, size })
    }

    /// Base and factors in turn, from the factors of the matrix itself on.
    fn in_turn(self, base: Blocks, best: &Matrix, norm: &Weighting) -> Result<Attempt, FormError> {
        let (_, first) = self.factors_of(best, norm)?;
        let mut attempt = self.based(base, best, Some(&first), norm)?;
        for _ in 1..ROUNDS {
            let next = self.based(base, best, Some(&attempt.product), norm)?;
            if next.error >= attempt.error {
                break;
            }
            attempt = next;
        }
        Ok(attempt)
    }
}

impl MatrixForm for PackedFactors {
    fn rank(&self) -> Option<usize> {
        self.base.is_none().then_some(self.rank)
    }

    fn problem(&self, shape @ [rows, columns]: [usize; 2]) -> Option<String> {
        let right = Blocks { tensor_type: self.tensor_type, turned: false };
        let left = Blocks { tensor_type: self.tensor_type, turned: true };
        rank_problem(self.rank, shape)
            .or_else(|| right.problem([self.rank, columns]))
            .or_else(|| left.problem([rows, self.rank]))
            .or_else(|| self.base.and_then(|base| base.problem(shape)))
    }

    fn parameters(&self, [rows, columns]: [usize; 2]) -> u64 {
        let [rows, columns, rank] = [rows, columns, self.rank].map(|n| n as u64);
        let base = if self.base.is_some() { rows.saturating_mul(columns) } else { 0 };
        base.saturating_add(rank.saturating_mul(rows.saturating_add(columns)))
    }

    fn tensors(&self, shape @ [rows, columns]: [usize; 2]) -> Vec<PartSpec> {
        let part = |suffix: &'static str, turned: bool, shape: [usize; 2]| {
            let blocks = Blocks { tensor_type: self.tensor_type, turned };
            let kind = PartKind::Blocks(self.tensor_type);
            PartSpec { suffix, shape: blocks.tensor_shape(shape).into(), kind }
        };
        // Where `problem` has something to say, nothing is stored.
        let (right, left) =
            self.names().map_or(("V.weight", "U.weight"), |names| (names.right, names.left));
        let base = self.base.map(|base| base.part(shape));
        let factors =
            [part(right, false, [self.rank, columns]), part(left, true, [rows, self.rank])];
        base.into_iter().chain(factors).collect()
    }

    fn make(&self, matrix: &Matrix, norm: &Weighting) -> Result<Made, FormError> {
        let (best, norm) = (norm.best(matrix)?, norm.of_best());
        let attempt = match self.base {
            None => self.alone(&best, &norm)?,
            Some(base) => self.in_turn(base, &best, &norm)?,
        };
        let Attempt { parts, error, size, .. } = attempt;
        Ok(Made { parts, relative_error: error, size })
    }

    fn cost_to_make(&self, shape @ [rows, columns]: [usize; 2]) -> Cost {
        let once = Cost::of_factors(shape, self.rank);
        match self.base {
            None => once,
            Some(_) => {
                let all = once + Cost::of_product(shape, rows.min(columns));
                Cost { operations: all.operations.saturating_mul(ROUNDS as u64), ..all }
            }
        }
    }

    fn merge(
        &self,
        shape @ [rows, columns]: [usize; 2],
        parts: Vec<Part>,
    ) -> Result<Matrix, FormError> {
        let mut parts = parts.into_iter();
        let mut next = || match parts.next() {
            Some(Part::Blocks(bytes)) => Ok(bytes),
            _ => Err(FormError::Parts("packed")),
        };
        let base = self.base.map(|base| base.unpack(shape, &next()?)).transpose()?;
        let right = unpacked(self.tensor_type, false, [self.rank, columns], &next()?)?;
        let left = unpacked(self.tensor_type, true, [rows, self.rank], &next()?)?;
        if parts.next().is_some() {
            return Err(FormError::Parts("packed"));
        }
        let product = left.product(&right)?;
        base.map_or(Ok(product.clone()), |base| sum(&base, &product))
    }

    fn cost_to_merge(&self, shape: [usize; 2]) -> Cost {
        Cost::of_product(shape, self.rank)
    }

    fn work(&self, _shape: [usize; 2], parameters: u64) -> Work {
        Work::of(parameters, if self.base.is_some() { 3 } else { 2 }, self.rank)
    }

    fn slots(&self, _of_linear: bool) -> Option<&'static [LiveSlot]> {
        const fn slot(param: &'static str, tensor: usize) -> LiveSlot {
            LiveSlot { param, tensor, codec: Codec::Blocks }
        }
        const ALONE: [LiveSlot; 2] = [slot(RIGHT, 0), slot(LEFT, 1)];
        const BASED: [LiveSlot; 3] = [slot(BASE, 0), slot(RIGHT, 1), slot(LEFT, 2)];
        Some(if self.base.is_some() { &BASED } else { &ALONE })
    }

    fn skeleton(
        &self,
        weight: [usize; 2],
        of_linear: bool,
        _indices: &[Vec<i32>],
        device: &Device,
    ) -> Result<Option<NewParams>, FormError> {
        let [first, second] = weight;
        let shape = if of_linear { [second, first] } else { weight };
        if let Some(problem) = self.problem(shape) {
            return Err(FormError::Impossible(problem));
        }
        let (rank, tensor_type) = (self.rank, Some(self.tensor_type));
        let factors = Some(NewFactors { rank, tensor_type });
        Ok(Some(NewPacked::empty(self.base, factors, weight, of_linear, device)))
    }

    fn fmt_for_people(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rank, name) = (self.rank, self.tensor_type.name());
        match self.base {
            None => write!(f, "two factors of rank {rank} in blocks of {name}"),
            Some(base) => {
                base.fmt_for_people(f)?;
                write!(f, " and two factors of rank {rank} in {name}")
            }
        }
    }
}
