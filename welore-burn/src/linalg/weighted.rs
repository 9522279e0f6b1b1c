//! The best approximation in a norm derived from data.
//!
//! With `L Lᵀ = E[x xᵀ]` for the inputs of a matrix and `Rᵀ R = E[g gᵀ]` for the gradients of its
//! outputs, `‖R (W - A) L‖²` is the mean of `(gᵀ (W - A) x)²` if inputs and gradients are
//! independent: the effect of the error on the loss, to second order. The best approximation at a
//! rank is the truncated decomposition of `R W L`, with both roots divided out again (Eckart-Young
//! in that norm; SVD-LLM, arXiv 2403.07378, for the input side).

use std::sync::Arc;

use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Mat, Scale, get_global_parallelism};

use super::cross::CrossMoment;
use super::matrix::{LinalgError, Matrix};
use super::moments::{Root, SecondMoment, root};
use super::shrink::Shrink;
use super::svd::{BalancedFactors, balanced_factors, singular_values};

/// The share of the diagonal that is added to second moments when they predict what the inputs lack.
/// That map has as many entries as the moments themselves, so without this it would fit the noise of a
/// short text.
const RIDGE: f64 = 0.03;

/// A norm for the errors of a matrix `[out, in]`.
#[derive(Debug, Clone, Default)]
pub struct Weighting {
    /// `L`, of the inputs.
    pub(super) input: Option<Arc<Root>>,
    /// `(I + K) L` for a target `W (I + K)`; `None` if the target is `W`.
    pub(super) target: Option<Arc<Mat<f64>>>,
    /// `Rᵀ`, of the gradients of the outputs.
    pub(super) output: Option<Arc<Root>>,
}

impl Weighting {
    /// The norm of the weights themselves.
    pub fn plain() -> Self {
        Self::default()
    }

    /// The norm from roots of second moments: of the inputs, and of the gradients of the outputs.
    pub fn new(input: Option<Arc<Root>>, output: Option<Arc<Root>>) -> Self {
        Self { input, target: None, output }
    }

    /// The norm for a matrix whose inputs have changed, because the layers before it did: `seen` is
    /// the second moment of the inputs `y` that it now sees, `cross` is `E[x yᵀ]` with the inputs
    /// `x` that it should see. The target is the output of the matrix for `y`, plus a share
    /// `follow` of its output for the part of `x - y` that `y` predicts.
    ///
    /// # Errors
    ///
    /// [`LinalgError::NotFinite`], [`LinalgError::NoConvergence`], [`LinalgError::UnknownSpread`].
    pub fn sequential(
        seen: &SecondMoment,
        cross: &CrossMoment,
        follow: f64,
        shrink: impl Into<Shrink>,
        output: Option<Arc<Root>>,
    ) -> Result<Self, LinalgError> {
        let lower = root(&seen.shrunk_by(shrink.into())?)?;
        // What the inputs lack, as a linear map of the inputs seen: E[(x - y) yᵀ] E[y yᵀ]⁻¹.
        let lacking = cross.mean() - seen.mean();
        let par = get_global_parallelism();
        let ridged = root(&seen.ridged(RIDGE))?;
        let mut map = lacking.transpose().to_owned();
        solve_lower_triangular_in_place(ridged.as_ref(), map.as_mut(), par);
        solve_upper_triangular_in_place(ridged.transpose(), map.as_mut(), par);
        let target = &lower + Scale(follow) * (map.transpose() * &lower);
        let (input, target) = (Arc::new(Root::full(lower)), Arc::new(target));
        Ok(Self { input: Some(input), target: Some(target), output })
    }

    /// The same for the inputs, with this root for the gradients of the outputs: for matrices that see the
    /// same inputs.
    #[must_use]
    pub fn with_output(self, output: Option<Arc<Root>>) -> Self {
        Self { output, ..self }
    }

    /// Whether it is the norm of the weights themselves.
    pub fn is_plain(&self) -> bool {
        self.input.is_none() && self.output.is_none()
    }

    /// The matrix whose plain norm is this norm.
    ///
    /// # Errors
    ///
    /// [`LinalgError::Inner`] if sizes differ, [`LinalgError::NotFinite`] on overflow.
    pub fn apply(&self, matrix: &Matrix) -> Result<Matrix, LinalgError> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let view = matrix.view();
        let mut product = None;
        if let Some(input) = self.input.as_deref() {
            if input.size() != cols {
                return Err(LinalgError::Inner { left: cols, right: input.size() });
            }
            product = Some(match &self.target {
                Some(target) => view * &**target,
                None => input.after(view),
            });
        }
        if let Some(output) = self.output.as_deref() {
            if output.size() != rows {
                return Err(LinalgError::Inner { left: output.size(), right: rows });
            }
            let so_far = product.as_ref().map_or(view, |product| product.as_ref());
            product = Some(output.transposed_before(so_far));
        }
        match product {
            Some(product) => Matrix::from_view(product.as_ref()),
            None => Ok(matrix.clone()),
        }
    }

    /// Singular values of the matrix in this norm, largest first. The squares of those left out add
    /// up to the squared error.
    ///
    /// # Errors
    ///
    /// As [`Weighting::apply`] and [`singular_values`].
    pub fn singular_values(&self, matrix: &Matrix) -> Result<Vec<f64>, LinalgError> {
        singular_values(&self.apply(matrix)?)
    }

    /// The factors of rank `rank` with the smallest error in this norm; `relative_error` is in this
    /// norm too.
    ///
    /// # Errors
    ///
    /// As [`Weighting::apply`] and [`balanced_factors`].
    pub fn factors(&self, matrix: &Matrix, rank: usize) -> Result<BalancedFactors, LinalgError> {
        let factors = self.unbalanced_factors(matrix, rank)?;
        match self.input.is_some() || self.output.is_some() {
            // What the roots were divided out of has the scale of gradients, and of inputs.
            true => factors.balanced(),
            false => Ok(factors),
        }
    }

    /// The same, for uses that do not depend on how each component is spread over its two factors.
    ///
    /// # Errors
    ///
    /// Those of [`Weighting::factors`].
    pub(crate) fn unbalanced_factors(
        &self,
        matrix: &Matrix,
        rank: usize,
    ) -> Result<BalancedFactors, LinalgError> {
        let mut factors = balanced_factors(&self.apply(matrix)?, rank)?;
        if let Some(output) = self.output.as_deref() {
            // R U = U', with R upper triangular.
            let mut left = factors.left.view().to_owned();
            output.divide_transposed(&mut left);
            factors.left = Matrix::from_view(left.as_ref())?;
        }
        if let Some(input) = self.input.as_deref() {
            // V L = V', that is Lᵀ Vᵀ = V'ᵀ.
            let mut right = factors.right.view().transpose().to_owned();
            input.divide_transposed(&mut right);
            factors.right = Matrix::from_view(right.transpose())?;
        }
        Ok(factors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: [usize; 2] = [7, 9];
    const RANK: usize = 4;

    fn entries(count: usize, phase: f64) -> Vec<f64> {
        (0..count).map(|i| ((i * i) as f64 * 0.37 + phase).sin()).collect()
    }

    /// The root of the second moment of rows of this size and scale.
    fn root(size: usize, scale: f64) -> Option<Arc<Root>> {
        let mut moment = SecondMoment::new(size);
        let rows = entries(40 * size, size as f64);
        moment.add(&rows.iter().map(|x| (x * scale) as f32).collect::<Vec<f32>>());
        Some(Arc::new(moment.root(1e-3).unwrap()))
    }

    fn norms() -> [Weighting; 3] {
        // Gradients are much smaller than inputs.
        let [out, inputs] = SHAPE;
        [
            Weighting::new(root(inputs, 30.0), None),
            Weighting::new(None, root(out, 1e-4)),
            Weighting::new(root(inputs, 30.0), root(out, 1e-4)),
        ]
    }

    /// The lengths of the vectors of each component, left and right.
    fn lengths(factors: &BalancedFactors) -> Vec<(f64, f64)> {
        let length = |x: Vec<f64>| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        let left = factors.left.transposed();
        let row = |of: &Matrix, k: usize| of.data()[k * of.cols()..][..of.cols()].to_vec();
        let pair = |k| (length(row(&left, k)), length(row(&factors.right, k)));
        (0..factors.rank()).map(pair).collect()
    }

    #[test]
    fn components_are_balanced_in_every_norm_and_their_product_stays() {
        let [out, inputs] = SHAPE;
        let matrix = Matrix::new(out, inputs, entries(out * inputs, 1.0)).unwrap();
        for norm in norms() {
            let before = norm.unbalanced_factors(&matrix, RANK).unwrap();
            let after = norm.factors(&matrix, RANK).unwrap();
            let uneven = |(left, right): &(f64, f64)| (left / right).max(right / left) > 10.0;
            assert!(lengths(&before).iter().all(uneven), "the roots are of other scales");
            for (left, right) in lengths(&after) {
                assert!((left / right - 1.0).abs() < 1e-12, "{left} {right}");
            }
            let product = |f: &BalancedFactors| f.left.product(&f.right).unwrap();
            let (old, new) = (product(&before), product(&after));
            for (old, new) in old.data().iter().zip(new.data()) {
                assert!((old - new).abs() < 1e-12 * product(&before).norm(), "{old} {new}");
            }
            assert_eq!(before.relative_error, after.relative_error);
        }
    }

    #[test]
    fn the_plain_norm_has_the_factors_of_the_decomposition_itself() {
        let [out, inputs] = SHAPE;
        let matrix = Matrix::new(out, inputs, entries(out * inputs, 1.0)).unwrap();
        let plain = Weighting::plain().factors(&matrix, RANK).unwrap();
        assert_eq!(plain, balanced_factors(&matrix, RANK).unwrap());
    }

    #[test]
    fn components_of_zeros_stay_zeros() {
        let [out, inputs] = SHAPE;
        let zero = Matrix::new(out, inputs, vec![0.0; out * inputs]).unwrap();
        // Of rank 1, so that the other components are zeros or rounding.
        let one = (0..out * inputs).map(|i| ((i / inputs + 1) * (i % inputs + 1)) as f64);
        let one = Matrix::new(out, inputs, one.collect()).unwrap();
        for norm in norms() {
            let factors = norm.factors(&zero, RANK).unwrap();
            assert!(factors.left.data().iter().chain(factors.right.data()).all(|x| *x == 0.0));
            let factors = norm.factors(&one, RANK).unwrap();
            let product = factors.left.product(&factors.right).unwrap();
            for (got, want) in product.data().iter().zip(one.data()) {
                assert!((got - want).abs() < 1e-9 * one.norm(), "{got} for {want}");
            }
        }
    }

    #[test]
    fn extreme_lengths_are_balanced_as_well() {
        let factors = BalancedFactors {
            left: Matrix::new(2, 2, vec![1e-200, 0.0, 3e-200, 0.0]).unwrap(),
            right: Matrix::new(2, 2, vec![4e200, 0.0, 5.0, 6.0]).unwrap(),
            relative_error: 0.0,
            size: 1.0,
        };
        let balanced = factors.balanced().unwrap();
        let (left, right) = lengths(&balanced)[0];
        assert!((left / right - 1.0).abs() < 1e-12, "{left} {right}");
        assert!((balanced.left.data()[0] * balanced.right.data()[0] - 4.0).abs() < 1e-12);
        // A component that is zero on one side only.
        assert_eq!(balanced.right.data()[2..], [5.0, 6.0]);
    }
}
