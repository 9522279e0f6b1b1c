//! Matrices of f64 on the host, and what can be wrong with them.

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::traits::ComplexField;
use faer::{Accum, Mat, MatRef, get_global_parallelism};

use crate::words::number_of;

/// A matrix in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f64>,
}

impl Matrix {
    /// A matrix from its entries, row after row.
    ///
    /// # Errors
    ///
    /// [`LinalgError::Empty`] if it has no rows or no columns, [`LinalgError::Length`] if
    /// `data` does not have `rows * cols` entries, [`LinalgError::NotFinite`] if one of them is
    /// infinite or not a number.
    pub fn new(rows: usize, cols: usize, data: Vec<f64>) -> Result<Self, LinalgError> {
        if rows == 0 || cols == 0 {
            return Err(LinalgError::Empty { rows, cols });
        }
        if rows.checked_mul(cols) != Some(data.len()) {
            let len = data.len();
            return Err(LinalgError::Length { rows, cols, len });
        }
        if let Some(index) = data.iter().position(|x| !x.is_finite()) {
            return Err(LinalgError::NotFinite {
                row: index / cols,
                col: index % cols,
                value: data[index],
            });
        }
        Ok(Self { rows, cols, data })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `min(rows, cols)`.
    pub fn full_rank(&self) -> usize {
        self.rows.min(self.cols)
    }

    /// The entries, row after row.
    pub fn data(&self) -> &[f64] {
        &self.data
    }

    /// The entries, row after row, without a copy.
    pub fn into_data(self) -> Vec<f64> {
        self.data
    }

    /// The Frobenius norm.
    pub fn norm(&self) -> f64 {
        let (scaled, scale) = self.scaled();
        scaled.iter().map(|x| x * x).sum::<f64>().sqrt() * scale
    }

    /// The transpose.
    pub fn transposed(&self) -> Self {
        let data = transpose(&self.data, self.rows, self.cols);
        Self { rows: self.cols, cols: self.rows, data }
    }

    /// Some of its rows, in the order in which they are named.
    ///
    /// # Errors
    ///
    /// [`LinalgError::Empty`] if none is named.
    ///
    /// # Panics
    ///
    /// Panics if there is no such row.
    pub(crate) fn chosen_rows(&self, rows: &[usize]) -> Result<Self, LinalgError> {
        let row = |row: &usize| &self.data[row * self.cols..][..self.cols];
        Self::new(rows.len(), self.cols, rows.iter().flat_map(row).copied().collect())
    }

    /// The product `self · other`.
    ///
    /// # Errors
    ///
    /// [`LinalgError::Inner`] if the inner dimensions differ, [`LinalgError::NotFinite`] if
    /// the product overflows.
    pub fn product(&self, other: &Self) -> Result<Self, LinalgError> {
        if self.cols != other.rows {
            return Err(LinalgError::Inner { left: self.cols, right: other.rows });
        }
        Self::from_view((self.view() * other.view()).as_ref())
    }

    /// A copy of a faer matrix.
    ///
    /// # Errors
    ///
    /// Those of [`Matrix::new`].
    pub(super) fn from_view(view: MatRef<'_, f64>) -> Result<Self, LinalgError> {
        let row = |i: usize| view.row(i).iter().copied().collect::<Vec<_>>();
        Self::new(view.nrows(), view.ncols(), (0..view.nrows()).flat_map(row).collect())
    }

    pub(super) fn view(&self) -> MatRef<'_, f64> {
        MatRef::from_row_major_slice(&self.data, self.rows, self.cols)
    }

    /// Divides by the power of two next to the largest entry, and returns it. This is exact, and
    /// keeps squares of huge or denormal entries within the range of f64.
    pub(super) fn scaled(&self) -> (Vec<f64>, f64) {
        let largest = self.data.iter().fold(0.0f64, |max, x| max.max(x.abs()));
        if largest == 0.0 {
            return (self.data.clone(), 1.0);
        }
        // 1/scale must also be finite, so the smallest denormals are scaled a little less.
        let exponent = largest.log2().floor().clamp(-1000.0, 1000.0);
        let scale = exponent.exp2();
        (self.data.iter().map(|x| x / scale).collect(), scale)
    }
}

/// The transpose of row-major entries `[rows, cols]`, in blocks that stay in cache.
///
/// # Panics
///
/// Panics if there are not `rows * cols` entries.
pub fn transpose<T: Copy + Default>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    const BLOCK: usize = 32;
    assert_eq!(values.len(), rows * cols, "the entries fit the shape");
    let mut out = vec![T::default(); values.len()];
    for top in (0..rows).step_by(BLOCK) {
        for left in (0..cols).step_by(BLOCK) {
            for row in top..(top + BLOCK).min(rows) {
                for col in left..(left + BLOCK).min(cols) {
                    out[col * rows + row] = values[row * cols + col];
                }
            }
        }
    }
    out
}

/// Why a decomposition failed.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LinalgError {
    /// A dimension is zero.
    #[error("a {rows} x {cols} matrix has no singular values")]
    Empty {
        /// Rows given.
        rows: usize,
        /// Columns given.
        cols: usize,
    },
    /// The number of entries does not fit the shape.
    #[error("a {rows} x {cols} matrix is not made of {}", number_of(*len, "number"))]
    Length {
        /// Rows given.
        rows: usize,
        /// Columns given.
        cols: usize,
        /// Entries given.
        len: usize,
    },
    /// An entry is infinite or not a number.
    #[error("the entry at row {row}, column {col} is {value}")]
    NotFinite {
        /// Row of the first such entry.
        row: usize,
        /// Column of the first such entry.
        col: usize,
        /// The entry.
        value: f64,
    },
    /// The requested rank is impossible.
    #[error("rank {rank} is not between 1 and {full}")]
    Rank {
        /// Rank asked for.
        rank: usize,
        /// `min(rows, cols)`.
        full: usize,
    },
    /// Two matrices cannot be multiplied.
    #[error("the inner dimensions {left} and {right} differ")]
    Inner {
        /// Columns of the left matrix.
        left: usize,
        /// Rows of the right matrix.
        right: usize,
    },
    /// It is not known how much the rows of a second moment differ, which shrinking it by the data needs.
    #[error("it is not known how much the rows of the second moment differ")]
    UnknownSpread,
    /// The iteration did not converge.
    #[error("the singular value decomposition did not converge")]
    NoConvergence,
}

/// The lower half of a symmetric product.
pub(super) fn lower_product<T: ComplexField>(left: MatRef<'_, T>, right: MatRef<'_, T>) -> Mat<T> {
    let mut product = Mat::zeros(left.nrows(), right.ncols());
    triangular::matmul(
        product.as_mut(),
        BlockStructure::TriangularLower,
        Accum::Replace,
        left,
        BlockStructure::Rectangular,
        right,
        BlockStructure::Rectangular,
        faer::traits::math_utils::one(),
        get_global_parallelism(),
    );
    product
}
