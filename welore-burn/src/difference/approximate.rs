use super::error::DifferenceError;
use super::measure::{Differences, MatrixDifference, Measuring, cost_of_pair, in_budget};
use super::pairs::Difference;
use crate::adapters::{LoraAdapter, LoraMatrix};
use crate::calibrate::Calibration;
use crate::linalg::{Cost, Matrix, loss_of_error};
use crate::modules::MatrixName;
use crate::progress::Progress;

/// What stands for the difference of a matrix: `up · down`.
#[derive(Debug, Clone, PartialEq)]
pub struct Approximation {
    /// The matrix.
    pub name: MatrixName,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// The factors, in f32, of which the product is taken once; `None` at rank 0.
    pub factors: Option<LoraMatrix>,
    /// The error over the whole difference, in the norm.
    pub relative_error: f64,
    /// What the difference and what is left of it are expected to raise the loss by, in nats per token;
    /// `None` if the norm is not that of the loss.
    pub losses: Option<[f64; 2]>,
}

impl Approximation {
    /// The rank.
    pub fn rank(&self) -> usize {
        self.factors.as_ref().map_or(0, LoraMatrix::rank)
    }

    /// Number of parameters of the factors.
    pub fn parameters(&self) -> u64 {
        self.rank() as u64 * self.shape.iter().map(|side| *side as u64).sum::<u64>()
    }

    /// `up · down`; `None` at rank 0.
    ///
    /// # Errors
    ///
    /// [`DifferenceError::Lora`] if the product overflows.
    pub fn product(&self) -> Result<Option<Matrix>, DifferenceError> {
        let product = self.factors.as_ref().map(LoraMatrix::delta).transpose();
        product.map_err(DifferenceError::of_lora(&self.name))
    }
}

/// The adapter of all approximations that have factors, of a base that is not named yet. Its scales are
/// 1.
pub fn adapter_of(made: &[Approximation], turned: bool) -> LoraAdapter {
    let factors = made.iter().filter_map(|one| Some((one.name.clone(), one.factors.clone()?)));
    LoraAdapter { turned, matrices: factors.collect(), ..LoraAdapter::default() }
}

impl Difference<'_> {
    /// The best approximations of the differences of the selected matrices at these ranks, in the norm
    /// that they were measured in. One rank for each of the matrices that differ.
    ///
    /// # Errors
    ///
    /// Those of [`Difference::measure`].
    pub fn approximate(
        &self,
        differences: &Differences,
        ranks: &[usize],
        measuring: &Measuring<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Approximation>, DifferenceError> {
        let all: Vec<(&MatrixDifference, usize)> =
            differences.matrices.iter().zip(ranks.iter().copied()).collect();
        let cost = |(matrix, rank): &(&MatrixDifference, usize)| {
            let shape = matrix.shape;
            let made = Cost::of_factors(shape, *rank) + Cost::of_product(shape, *rank);
            made + measuring.norms.cost(&matrix.name, shape) + cost_of_pair(shape)
        };
        let work: Vec<(&str, Cost)> =
            all.iter().map(|one| (one.0.name.as_str(), cost(one))).collect();
        let mut found: Vec<Option<Approximation>> = all.iter().map(|_| None).collect();
        let make = |index: usize| {
            let (matrix, rank) = all[index];
            self.approximate_one(matrix, rank, measuring)
        };
        in_budget("factoring", &work, &measuring.budget, progress, make, |index, one| {
            found[index] = Some(one);
        })?;
        self.check_unchanged()?;
        Ok(found.into_iter().flatten().collect())
    }

    fn approximate_one(
        &self,
        matrix: &MatrixDifference,
        rank: usize,
        measuring: &Measuring<'_>,
    ) -> Result<Approximation, DifferenceError> {
        let MatrixDifference { name, shape, .. } = matrix;
        let (from, difference) = self.of(name)?;
        drop(from);
        let (factors, relative_error) = match rank {
            0 => (None, 1.0),
            _ => {
                let norm = measuring.norms.of(name)?;
                let made = norm.factors(&difference, rank);
                let made = made.map_err(DifferenceError::of_linalg(name))?;
                let factors = LoraMatrix::of_factors(&made.left, &made.right);
                let factors = factors.map_err(DifferenceError::of_lora(name))?;
                (Some(factors), made.relative_error)
            }
        };
        let (name, shape) = (name.clone(), *shape);
        let mut made = Approximation { name, shape, factors, relative_error, losses: None };
        let is_of_loss = measuring.norms.is_of_loss(&made.name);
        if let Some(calibration) = measuring.norms.calibration().filter(|_| is_of_loss) {
            made.losses = Some(losses(&made, &difference, calibration)?);
        }
        Ok(made)
    }
}

/// What a difference and what is left of it are expected to raise the loss by.
fn losses(
    made: &Approximation,
    difference: &Matrix,
    calibration: &Calibration,
) -> Result<[f64; 2], DifferenceError> {
    let (inputs, outputs) = (calibration.inputs(&made.name)?, calibration.outputs(&made.name)?);
    let loss = |error: &[f32]| {
        loss_of_error(error, &inputs, Some(&outputs))
            .map_err(DifferenceError::of_linalg(&made.name))
    };
    let before: Vec<f32> = difference.data().iter().map(|x| *x as f32).collect();
    let product = made.product()?;
    let left = product.as_ref().map(|product| {
        let both = difference.data().iter().zip(product.data());
        both.map(|(whole, part)| (whole - part) as f32).collect::<Vec<f32>>()
    });
    let before = loss(&before)?;
    Ok([before, left.map_or(Ok(before), |left| loss(&left))?])
}
