//! Second moments of rows, and their roots.

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatRef, Side, get_global_parallelism};

use super::matrix::{LinalgError, Matrix};

/// `Σ x xᵀ` over rows `x`, summed in f64. Symmetric: only the lower half is kept.
#[derive(Debug, Clone)]
pub struct SecondMoment {
    sum: Mat<f64>,
    count: u64,
}

impl SecondMoment {
    /// The sum over no rows, for rows of `size` entries.
    pub fn new(size: usize) -> Self {
        Self { sum: Mat::zeros(size, size), count: 0 }
    }

    /// From the mean second moment `E[x xᵀ]` of `count` rows, given as its lower half row after
    /// row: `size (size + 1) / 2` entries.
    ///
    /// # Errors
    ///
    /// [`LinalgError::Length`] and [`LinalgError::NotFinite`].
    pub fn from_packed(size: usize, packed: &[f32], count: u64) -> Result<Self, LinalgError> {
        if packed.len() != packed_len(size) {
            return Err(LinalgError::Length { rows: size, cols: size, len: packed.len() });
        }
        let mut sum = Mat::zeros(size, size);
        let mut entries = packed.iter();
        for row in 0..size {
            for (col, x) in entries.by_ref().take(row + 1).enumerate() {
                if !x.is_finite() {
                    return Err(LinalgError::NotFinite { row, col, value: f64::from(*x) });
                }
                sum[(row, col)] = f64::from(*x) * count as f64;
            }
        }
        Ok(Self { sum, count })
    }

    /// The inverse of [`from_packed`](SecondMoment::from_packed), in f32.
    pub fn packed(&self) -> Vec<f32> {
        let scale = 1.0 / self.count.max(1) as f64;
        let row = |row: usize| (0..=row).map(move |col| (self.sum[(row, col)] * scale) as f32);
        (0..self.size()).flat_map(row).collect()
    }

    /// Length of a row.
    pub fn size(&self) -> usize {
        self.sum.nrows()
    }

    /// Number of rows so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds another sum.
    ///
    /// # Panics
    ///
    /// Panics if the sizes differ.
    pub fn merge(&mut self, other: &Self) {
        self.sum += &other.sum;
        self.count += other.count;
    }

    /// Adds rows, one after the other in `rows`. Their products are summed in f32 here, so a
    /// call should add no more than a few thousand.
    ///
    /// # Panics
    ///
    /// Panics if `rows` is not a multiple of the size.
    pub fn add(&mut self, rows: &[f32]) {
        let size = self.size();
        let x = view(rows, size);
        let mut part = Mat::<f32>::zeros(size, size);
        triangular::matmul(
            part.as_mut(),
            BlockStructure::TriangularLower,
            Accum::Replace,
            x.transpose(),
            BlockStructure::Rectangular,
            x,
            BlockStructure::Rectangular,
            1.0,
            get_global_parallelism(),
        );
        for col in 0..size {
            for row in col..size {
                self.sum[(row, col)] += f64::from(part[(row, col)]);
            }
        }
        self.count += x.nrows() as u64;
    }

    /// The mean square of each entry of a row: the diagonal of the mean, in f32.
    pub fn mean_squares(&self) -> Vec<f32> {
        let scale = 1.0 / self.count.max(1) as f64;
        (0..self.size()).map(|i| (self.sum[(i, i)] * scale) as f32).collect()
    }

    /// Whether every entry is a number.
    pub fn is_finite(&self) -> bool {
        (0..self.size()).all(|col| self.sum.col(col).iter().all(|x| x.is_finite()))
    }

    /// The root of the mean, with `shrink` times the mean of its diagonal added to the diagonal.
    ///
    /// # Errors
    ///
    /// [`LinalgError::NotFinite`], [`LinalgError::NoConvergence`].
    pub fn root(&self, shrink: f64) -> Result<Root, LinalgError> {
        Ok(Root(root(&self.shrunk(shrink))?))
    }

    /// The mean `E[x xᵀ]`, with `shrink` times the mean of its diagonal added to the diagonal.
    pub(super) fn shrunk(&self, shrink: f64) -> Mat<f64> {
        let (size, scale) = (self.size(), 1.0 / self.count.max(1) as f64);
        let mean = (0..size).map(|i| self.sum[(i, i)]).sum::<f64>() * scale / size as f64;
        Mat::from_fn(size, size, |i, j| {
            let entry = self.sum[(i.max(j), i.min(j))] * scale;
            if i == j { entry + shrink * mean } else { entry }
        })
    }
}

/// The lower triangular `L` for which `L Lᵀ` is a second moment.
#[derive(Debug, Clone)]
pub struct Root(pub(super) Mat<f64>);

impl Root {
    /// Number of rows and columns.
    pub fn size(&self) -> usize {
        self.0.nrows()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        (self.size() * self.size() * size_of::<f64>()) as u64
    }

    /// Its entries.
    ///
    /// # Errors
    ///
    /// [`LinalgError::NotFinite`], [`LinalgError::Empty`].
    pub fn to_matrix(&self) -> Result<Matrix, LinalgError> {
        Matrix::from_view(self.0.as_ref())
    }
}

/// `Σ x yᵀ` over pairs of rows, summed in f64.
#[derive(Debug, Clone)]
pub struct CrossMoment {
    sum: Mat<f64>,
    count: u64,
}

impl CrossMoment {
    /// The sum over no pairs, for rows of `size` entries.
    pub fn new(size: usize) -> Self {
        Self { sum: Mat::zeros(size, size), count: 0 }
    }

    /// Adds pairs of rows, as [`SecondMoment::add`] adds rows.
    ///
    /// # Panics
    ///
    /// Panics if the lengths differ or are not multiples of the size.
    pub fn add(&mut self, x: &[f32], y: &[f32]) {
        let size = self.sum.nrows();
        let (x, y) = (view(x, size), view(y, size));
        let part = x.transpose() * y;
        for col in 0..size {
            let into = self.sum.col_mut(col).iter_mut();
            into.zip(part.col(col).iter()).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        self.count += x.nrows() as u64;
    }

    /// Adds another sum.
    ///
    /// # Panics
    ///
    /// Panics if the sizes differ.
    pub fn merge(&mut self, other: &Self) {
        self.sum += &other.sum;
        self.count += other.count;
    }

    /// Whether every entry is a number.
    pub fn is_finite(&self) -> bool {
        (0..self.sum.ncols()).all(|col| self.sum.col(col).iter().all(|x| x.is_finite()))
    }

    pub(super) fn mean(&self) -> Mat<f64> {
        let scale = 1.0 / self.count.max(1) as f64;
        Mat::from_fn(self.sum.nrows(), self.sum.ncols(), |i, j| self.sum[(i, j)] * scale)
    }
}

/// Number of entries in the lower half of a square matrix.
pub fn packed_len(size: usize) -> usize {
    size * (size + 1) / 2
}

fn view(rows: &[f32], size: usize) -> MatRef<'_, f32> {
    assert_eq!(rows.len() % size, 0, "there are whole rows");
    MatRef::from_row_major_slice(rows, rows.len() / size, size)
}

/// The lower triangular `L` with `L Lᵀ = M` for a symmetric positive semidefinite matrix, by
/// Cholesky. Where rounding or missing data leave no positive pivots, it comes from the
/// eigenvalues, and those below `1e-10` of the largest are raised to that.
pub(super) fn root(matrix: &Mat<f64>) -> Result<Mat<f64>, LinalgError> {
    const SMALLEST: f64 = 1e-10;
    // The comparisons below would pass over what is not a number.
    let mut places =
        (0..matrix.ncols()).flat_map(|col| (col..matrix.nrows()).map(move |row| (row, col)));
    if let Some((row, col)) = places.find(|place| !matrix[*place].is_finite()) {
        return Err(LinalgError::NotFinite { row, col, value: matrix[(row, col)] });
    }
    if let Ok(cholesky) = matrix.llt(Side::Lower) {
        let lower = cholesky.L().to_owned();
        let smallest = (0..lower.nrows()).map(|i| lower[(i, i)].powi(2)).fold(f64::MAX, f64::min);
        let largest = (0..lower.nrows()).map(|i| matrix[(i, i)]).fold(0.0, f64::max);
        if smallest > SMALLEST * largest {
            return Ok(lower);
        }
    }
    let eigen = matrix.self_adjoint_eigen(Side::Lower).map_err(|_| LinalgError::NoConvergence)?;
    let values: Vec<f64> = eigen.S().column_vector().iter().copied().collect();
    let largest = values.iter().fold(0.0f64, |most, value| most.max(*value));
    // All zero: any invertible root will do.
    let floor = if largest > 0.0 { SMALLEST * largest } else { 1.0 };
    let size = values.len();
    // M = (Λ½ Qᵀ)ᵀ (Λ½ Qᵀ), and the triangle of its QR decomposition is a root.
    let half = Mat::from_fn(size, size, |i, j| values[i].max(floor).sqrt() * eigen.U()[(j, i)]);
    Ok(half.qr().thin_R().transpose().to_owned())
}
