//! Systems of equations with a symmetric positive definite matrix.

use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Mat, get_global_parallelism};

use super::matrix::{LinalgError, Matrix};
use super::moments::root;

/// The lower triangular `L` for which `L Lᵀ` is a symmetric positive definite matrix.
#[derive(Debug)]
pub(crate) struct Cholesky(Mat<f64>);

impl Cholesky {
    /// Of a matrix, of which only the lower half is read.
    ///
    /// # Errors
    ///
    /// [`LinalgError::Inner`] if it is not square, [`LinalgError::NotFinite`],
    /// [`LinalgError::NoConvergence`].
    pub fn of(matrix: &Matrix) -> Result<Self, LinalgError> {
        if matrix.rows() != matrix.cols() {
            return Err(LinalgError::Inner { left: matrix.cols(), right: matrix.rows() });
        }
        Ok(Self(root(&matrix.view().to_owned())?))
    }

    /// `L⁻¹ M`.
    ///
    /// # Errors
    ///
    /// [`LinalgError::Inner`] if the sizes differ, [`LinalgError::NotFinite`] on overflow.
    pub fn divide(&self, matrix: &Matrix) -> Result<Matrix, LinalgError> {
        if self.0.nrows() != matrix.rows() {
            return Err(LinalgError::Inner { left: self.0.nrows(), right: matrix.rows() });
        }
        let mut solved = matrix.view().to_owned();
        solve_lower_triangular_in_place(self.0.as_ref(), solved.as_mut(), get_global_parallelism());
        Matrix::from_view(solved.as_ref())
    }

    /// The natural logarithm of the determinant of `L Lᵀ`.
    pub fn log_determinant(&self) -> f64 {
        2.0 * (0..self.0.nrows()).map(|i| self.0[(i, i)].ln()).sum::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_and_determinants_are_those_of_the_matrix() {
        // L = [[2, 0], [1, 3]].
        let matrix = Matrix::new(2, 2, vec![4.0, 2.0, 2.0, 10.0]).unwrap();
        let cholesky = Cholesky::of(&matrix).unwrap();
        let divided = cholesky.divide(&Matrix::new(2, 1, vec![4.0, 8.0]).unwrap()).unwrap();
        assert_eq!(divided.data(), [2.0, 2.0]);
        assert!((cholesky.log_determinant() - 36f64.ln()).abs() < 1e-12);
        let short = Matrix::new(1, 2, vec![1.0, 2.0]).unwrap();
        assert!(matches!(Cholesky::of(&short), Err(LinalgError::Inner { .. })));
        assert!(matches!(cholesky.divide(&short), Err(LinalgError::Inner { .. })));
    }
}
