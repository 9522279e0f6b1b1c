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
use faer::{Mat, MatRef, get_global_parallelism};

use super::moments::{CrossMoment, SecondMoment, root};
use super::pivot::row_major;
use super::svd::{BalancedFactors, LinalgError, Matrix, balanced_factors, singular_values};

/// A norm for the errors of a matrix `[out, in]`.
#[derive(Debug, Clone)]
pub struct Weighting {
    /// `L`, of the inputs.
    input: Option<Mat<f64>>,
    /// What the inputs should have been: `Z = T L⁻ᵀ` for a target `W T L⁻ᵀ`; `L` itself if there
    /// is no other target.
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
    /// inputs `x` it should see and those `y` it sees. The target is `W` times a mixture, a
    /// share `follow` of it what the matrix should answer to `x`, the rest to `y`.
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
        let (own, cross) = (seen.shrunk(0.0), cross.mean());
        let size = seen.size();
        let mixed =
            Mat::from_fn(size, size, |i, j| follow * cross[(i, j)] + (1.0 - follow) * own[(i, j)]);
        // Z = T L⁻ᵀ, that is L Zᵀ = Tᵀ.
        let mut target = mixed.transpose().to_owned();
        solve_lower_triangular_in_place(lower.as_ref(), target.as_mut(), get_global_parallelism());
        let output = output.map(|output| root(&output.shrunk(shrink.output))).transpose()?;
        Ok(Self { input: Some(lower), target: Some(target.transpose().to_owned()), output })
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
