use burn::tensor::{Device, Tensor, TensorData};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::attach::{FactorParams, NewParams, empty_param};
use super::error::FormError;
use super::factors::{V, rank_problem};
use super::form::{Form, FormAndShape, Kind, Shapes};
use super::matrix_form::{Made, MatrixForm};
use super::order::checked_order;
use super::part::{Part, PartKind, PartSpec};
use super::rounding::round_numbers;
use super::slots::{Codec, LiveSlot};
use super::work::Work;
use crate::linalg::{
    BalancedFactors, Cost, LinalgError, Matrix, PivotFactors, Weighting, pivot_factors,
    pivot_factors_within,
};

/// `r` rows of a matrix and the coefficients that rebuild the others: `r (m + n - r)` parameters
/// for the matrix that two factors store in `r (m + n)` (PIFA, arXiv 2501.19090).
///
/// `X.V.weight [rank, in]` holds the pivot rows, `X.pivots [rank]`, I32, their indices, and
/// `X.C.weight [out - rank, rank]` the coefficients of the other rows, in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pivot {
    /// The rank, which is the number of pivot rows.
    pub rank: usize,
}

pub(super) const KIND: Kind = Kind { stored, live, sets: || vec![vec![V, C, PIVOTS]] };

const C: &str = "C.weight";
const PIVOTS: &str = "pivots";

/// Largest coefficient where pivot rows are rounded: their errors come back in all other rows,
/// multiplied by these.
const LARGEST_WHERE_ROUNDED: f64 = 1.05;

fn stored(shape_of: &Shapes<'_>) -> Option<FormAndShape> {
    shape_of(PIVOTS)?;
    let [rank, d_input] = shape_of(V)?.try_into().ok()?;
    let [others, _] = shape_of(C)?.try_into().ok()?;
    Some((Form::pivot(rank), [others.checked_add(rank)?, d_input]))
}

fn live(shape_of: &Shapes<'_>, _of_linear: bool) -> Option<FormAndShape> {
    let [d_output] = shape_of("low_rank.order")?.try_into().ok()?;
    let [d_input, rank] = shape_of("")?.try_into().ok()?;
    Some((Form::pivot(rank), [d_output, d_input]))
}

impl Pivot {
    /// The matrix by the pivots that are chosen for its factors.
    fn make_with(
        self,
        matrix: &Matrix,
        norm: &Weighting,
        choose: impl FnOnce(&BalancedFactors) -> Result<PivotFactors, LinalgError>,
    ) -> Result<Made, FormError> {
        let factors = norm.unbalanced_factors(matrix, self.rank)?;
        let pivoted = choose(&factors)?;
        let pivots = pivoted.pivots.into_iter().map(|pivot| pivot as i32).collect();
        Ok(Made {
            parts: vec![
                Part::Numbers(pivoted.rows),
                Part::Numbers(pivoted.others),
                Part::Indices(pivots),
            ],
            relative_error: factors.relative_error,
            size: factors.size,
        })
    }
}

impl MatrixForm for Pivot {
    fn rank(&self) -> Option<usize> {
        Some(self.rank)
    }

    fn in_transformers(&self) -> Option<&'static str> {
        Some("pivots")
    }

    fn problem(&self, shape: [usize; 2]) -> Option<String> {
        rank_problem(self.rank, shape).or_else(|| {
            let full = self.rank == shape[0].min(shape[1]);
            full.then(|| "pivoted storage at full rank is the dense matrix".into())
        })
    }

    fn tensors(&self, [d_output, d_input]: [usize; 2]) -> Vec<PartSpec> {
        let part = |suffix, shape, kind| PartSpec { suffix, shape, kind };
        vec![
            part(V, vec![self.rank, d_input], PartKind::Numbers),
            part(C, vec![d_output.saturating_sub(self.rank), self.rank], PartKind::Numbers),
            part(PIVOTS, vec![self.rank], PartKind::Indices),
        ]
    }

    fn make(&self, matrix: &Matrix, norm: &Weighting) -> Result<Made, FormError> {
        self.make_with(matrix, norm, pivot_factors)
    }

    fn make_to_round(&self, matrix: &Matrix, norm: &Weighting) -> Result<Made, FormError> {
        self.make_with(matrix, norm, |factors| pivot_factors_within(factors, LARGEST_WHERE_ROUNDED))
    }

    fn fitted(
        &self,
        parts: &[Part],
        best: &Matrix,
        norm: &Weighting,
        dtype: Dtype,
    ) -> Result<Option<Vec<Part>>, FormError> {
        let [Part::Numbers(rows), Part::Numbers(others), Part::Indices(pivots)] = parts else {
            return Err(FormError::Parts("pivoted"));
        };
        checked_order(pivots, best.rows())?;
        let exact = PivotFactors {
            pivots: pivots.iter().map(|pivot| *pivot as usize).collect(),
            rows: rows.clone(),
            others: others.clone(),
        };
        let columns = norm.feedback_of_columns()?;
        // What is made of the pivot rows makes up for them, too.
        let between = norm.feedback_of_right(&exact.combinations()?)?;
        let rows = round_numbers(rows, dtype, [columns.as_deref(), Some(&between)])?;
        let other_rows = exact.other_rows();
        let others = norm.fit_left(&best.chosen_rows(&other_rows)?, &rows)?;
        let between = norm.feedback_of_left(&rows)?;
        let across = norm.feedback_of_rows(&other_rows)?;
        let others = round_numbers(&others, dtype, [Some(&between), across.as_ref()])?;
        let pivots = Part::Indices(pivots.clone());
        Ok(Some(vec![Part::Numbers(rows), Part::Numbers(others), pivots]))
    }

    fn cost_to_make(&self, shape: [usize; 2]) -> Cost {
        Cost::of_factors(shape, self.rank)
    }

    fn merge(&self, [rows, cols]: [usize; 2], parts: Vec<Part>) -> Result<Matrix, FormError> {
        let Ok([Part::Numbers(v), Part::Numbers(c), Part::Indices(pivots)]) =
            <[Part; 3]>::try_from(parts)
        else {
            return Err(FormError::Parts("pivoted"));
        };
        let order = checked_order(&pivots, rows)?;
        let others = c.product(&v)?;
        let rank = v.rows();
        let row = |place: i32| {
            let place = place as usize;
            match place.checked_sub(rank) {
                Some(other) => &others.data()[other * cols..][..cols],
                None => &v.data()[place * cols..][..cols],
            }
        };
        Ok(Matrix::new(rows, cols, order.into_iter().flat_map(row).copied().collect())?)
    }

    fn cost_to_merge(&self, shape: [usize; 2]) -> Cost {
        Cost::of_product(shape, self.rank)
    }

    fn work(&self, [d_output, _]: [usize; 2], parameters: u64) -> Work {
        // The pivots feed the second product, and all outputs are joined, then put in order.
        Work::of(parameters, 2, self.rank.saturating_add(d_output.saturating_mul(2)))
    }

    fn slots(&self, of_linear: bool) -> Option<&'static [LiveSlot]> {
        const LINEAR: [LiveSlot; 3] = [
            LiveSlot { param: "", tensor: 0, codec: Codec::Transposed },
            LiveSlot { param: "low_rank.up", tensor: 1, codec: Codec::Transposed },
            LiveSlot { param: "low_rank.order", tensor: 2, codec: Codec::Order },
        ];
        of_linear.then_some(&LINEAR)
    }

    fn fmt_for_people(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "pivots of rank {}", self.rank)
    }

    fn any_indices(&self) -> Vec<Vec<i32>> {
        vec![(0..).take(self.rank).collect()]
    }

    fn skeleton(
        &self,
        [d_input, d_output]: [usize; 2],
        _of_linear: bool,
        indices: &[Vec<i32>],
        device: &Device,
    ) -> Result<Option<NewParams>, FormError> {
        let [pivots] = indices else { return Err(FormError::Parts("pivoted")) };
        let order = TensorData::new(checked_order(pivots, d_output)?, [d_output]);
        Ok(Some(NewParams::Factors(FactorParams {
            down: empty_param([d_input, self.rank], device),
            up: empty_param([self.rank, d_output.saturating_sub(self.rank)], device),
            order: Some(Tensor::from_data(order, device)),
        })))
    }
}
