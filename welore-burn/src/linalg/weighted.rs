//! The best approximation in a norm that data gives.
//!
//! With `L Lᵀ = E[x xᵀ]` of the inputs of a matrix and `Rᵀ R = E[g gᵀ]` of the gradients of its
//! outputs, `‖R (W - A) L‖²` is the mean of `(gᵀ (W - A) x)²` if inputs and gradients are
//! independent: what the error does to the loss, to second order. Its best approximation of a
//! rank is the truncated decomposition of `R W L`, with both roots folded back (Eckart-Young in
//! that norm; SVD-LLM, arXiv 2403.07378, for the input side).

use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Mat, MatRef, Scale, get_global_parallelism};

use super::matrix::{LinalgError, Matrix};
use super::moments::{CrossMoment, SecondMoment, root};
use super::pivot::row_major;
use super::svd::{BalancedFactors, balanced_factors, singular_values};

/// Added to second moments, as a share of their mean, where they tell what inputs lack: there are
/// as many numbers to tell as in the moments themselves, and less text than for those would fit
/// its noise.
const RIDGE: f64 = 0.1;

/// A norm for the errors of a matrix `[out, in]`.
#[derive(Debug, Clone)]
pub struct Weighting {
    /// `L`, of the inputs.
    input: Option<Mat<f64>>,
    /// `(I + K) L` for a target `W (I + K)`; `L` itself if there is no other target.
    target: Option<Mat<f64>>,
    /// `Rᵀ`, of the gradients of the outputs, lower triangular.
    output: Option<Mat<f64>>,
}

/// Moments that are added to the diagonal, as a share of its mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shrinkage {
    /// Of the inputs' second moment.
    pub input: f64,
    /// Of the gradients', of which there is less data.
    pub output: f64,
}

impl Default for Shrinkage {
    /// What does best on SmolLM2 (docs/benchmarks.md).
    fn default() -> Self {
        Self { input: 1e-3, output: 0.3 }
    }
}

impl Weighting {
    /// The norm of the weights themselves.
    pub fn plain() -> Self {
        Self { input: None, target: None, output: None }
    }

    /// The norm of second moments of the inputs, and of the gradients of the outputs.
    ///
    /// # Errors
    ///
    /// [`LinalgError::NoConvergence`].
    pub fn new(
        input: &SecondMoment,
        output: Option<&SecondMoment>,
        shrink: Shrinkage,
    ) -> Result<Self, LinalgError> {
        let input = root(&input.shrunk(shrink.input))?;
        let output = output.map(|output| root(&output.shrunk(shrink.output))).transpose()?;
        Ok(Self { input: Some(input), target: None, output })
    }

    /// The same for a matrix that now sees other inputs than it should, because what comes before
    /// it was changed: `seen` are the second moments of those, `cross` is `E[x yᵀ]` of the
    /// inputs `x` it should see and those `y` it sees. The target is what `W` answers to `y` and a
    /// share `follow` of what is known from it of `x - y`.
    ///
    /// # Errors
    ///
    /// [`LinalgError::NoConvergence`].
    pub fn sequential(
        seen: &SecondMoment,
        cross: &CrossMoment,
        follow: f64,
        output: Option<&SecondMoment>,
        shrink: Shrinkage,
    ) -> Result<Self, LinalgError> {
        let lower = root(&seen.shrunk(shrink.input))?;
        // What the inputs lack of what they should be, as a linear map of what they are:
        // E[(x - y) yᵀ] E[y yᵀ]⁻¹.
        let lacking = cross.mean() - seen.shrunk(0.0);
        let par = get_global_parallelism();
        let ridged = root(&seen.shrunk(RIDGE))?;
        let mut map = lacking.transpose().to_owned();
        solve_lower_triangular_in_place(ridged.as_ref(), map.as_mut(), par);
        solve_upper_triangular_in_place(ridged.transpose(), map.as_mut(), par);
        let target = &lower + Scale(follow) * (map.transpose() * &lower);
        let output = output.map(|output| root(&output.shrunk(shrink.output))).transpose()?;
        Ok(Self { input: Some(lower), target: Some(target), output })
    }

    /// The matrix whose plain norm is this norm.
    ///
    /// # Errors
    ///
    /// [`LinalgError::Inner`] if sizes differ, [`LinalgError::NotFinite`] on overflow.
    pub fn apply(&self, matrix: &Matrix) -> Result<Matrix, LinalgError> {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let view = MatRef::from_row_major_slice(matrix.data(), rows, cols);
        let mut product = None;
        if let Some(right) = self.target.as_ref().or(self.input.as_ref()) {
            if right.nrows() != cols {
                return Err(LinalgError::Inner { left: cols, right: right.nrows() });
            }
            product = Some(view * right);
        }
        if let Some(output) = &self.output {
            if output.nrows() != rows {
                return Err(LinalgError::Inner { left: output.nrows(), right: rows });
            }
            let so_far = product.as_ref().map_or(view, |product| product.as_ref());
            product = Some(output.transpose() * so_far);
        }
        match product {
            Some(product) => Matrix::new(rows, cols, row_major(product.as_ref())),
            None => Ok(matrix.clone()),
        }
    }

    /// Singular values of the matrix in this norm, largest first: the root of what is left out
    /// when the later ones are.
    ///
    /// # Errors
    ///
    /// As [`Weighting::apply`] and [`singular_values`].
    pub fn singular_values(&self, matrix: &Matrix) -> Result<Vec<f64>, LinalgError> {
        singular_values(&self.apply(matrix)?)
    }

    /// The factors of rank `rank` with the smallest error in this norm, whose relative size is
    /// their `relative_error`.
    ///
    /// # Errors
    ///
    /// As [`Weighting::apply`] and [`balanced_factors`].
    pub fn factors(&self, matrix: &Matrix, rank: usize) -> Result<BalancedFactors, LinalgError> {
        let mut factors = balanced_factors(&self.apply(matrix)?, rank)?;
        let par = get_global_parallelism();
        if let Some(output) = &self.output {
            // R U = U', with R upper triangular.
            let view = MatRef::from_row_major_slice(&factors.left, matrix.rows(), rank);
            let mut left = view.to_owned();
            solve_upper_triangular_in_place(output.transpose(), left.as_mut(), par);
            factors.left = row_major(left.as_ref());
        }
        if let Some(input) = &self.input {
            // V L = V', that is Lᵀ Vᵀ = V'ᵀ.
            let view = MatRef::from_row_major_slice(&factors.right, rank, matrix.cols());
            let mut right = view.transpose().to_owned();
            solve_upper_triangular_in_place(input.transpose(), right.as_mut(), par);
            factors.right = row_major(right.transpose());
        }
        Ok(factors)
    }
}
