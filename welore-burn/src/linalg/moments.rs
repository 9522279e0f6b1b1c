//! Second moments of rows, and their roots.

use std::sync::{Arc, OnceLock};

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::triangular_solve::solve_upper_triangular_in_place;
use faer::{Accum, Mat, MatRef, Side, get_global_parallelism};

use super::feedback::Feedback;
use super::matrix::{LinalgError, Matrix, lower_product};
use super::shrink::Shrink;

/// `Σ x xᵀ` over rows `x`, summed in f64; or only its diagonal, where nothing else is known.
#[derive(Debug, Clone)]
pub struct SecondMoment {
    sum: Sum,
    count: u64,
    /// `Σ |x|⁴`: how much rows differ. `None` if that is not known.
    fourth: Option<f64>,
}

#[derive(Debug, Clone)]
enum Sum {
    /// Symmetric: only the lower half is kept.
    Full(Mat<f64>),
    /// Everything beside the diagonal is taken for zero. The wide inputs of large models have
    /// gigabytes of it.
    Diagonal(Vec<f64>),
}

impl SecondMoment {
    /// The sum over no rows, for rows of `size` entries.
    pub fn new(size: usize) -> Self {
        Self { sum: Sum::Full(Mat::zeros(size, size)), count: 0, fourth: Some(0.0) }
    }

    /// From the mean squares `E[xᵢ²]` of `count` rows; what is beside the diagonal is taken for
    /// zero.
    ///
    /// # Errors
    ///
    /// [`LinalgError::NotFinite`].
    pub fn from_squares(squares: &[f64], count: u64) -> Result<Self, LinalgError> {
        if let Some((i, value)) = squares.iter().copied().enumerate().find(|(_, x)| !x.is_finite())
        {
            return Err(LinalgError::NotFinite { row: i, col: i, value });
        }
        let sum = squares.iter().map(|x| x * count as f64).collect();
        Ok(Self { sum: Sum::Diagonal(sum), count, fourth: None })
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
        Ok(Self { sum: Sum::Full(sum), count, fourth: None })
    }

    /// The same with the mean `E[|x|⁴]`, which says how much rows differ, if it is known.
    pub fn with_mean_fourth(self, mean: Option<f64>) -> Self {
        let fourth = mean.filter(|x| x.is_finite()).map(|x| x * self.count as f64);
        Self { fourth, ..self }
    }

    /// The mean `E[|x|⁴]`, if it is known.
    pub fn mean_fourth(&self) -> Option<f64> {
        Some(self.fourth? / self.count.max(1) as f64)
    }

    /// The sum of `|x|⁴`.
    pub(super) fn fourth(&self) -> Option<f64> {
        self.fourth
    }

    /// The inverse of [`from_packed`](SecondMoment::from_packed), in f32.
    pub fn packed(&self) -> Vec<f32> {
        let scale = 1.0 / self.count.max(1) as f64;
        let row = |row: usize| (0..=row).map(move |col| (self.entry(row, col) * scale) as f32);
        (0..self.size()).flat_map(row).collect()
    }

    /// The mean squares `E[xᵢ²]`: the diagonal of the mean.
    pub fn squares(&self) -> Vec<f64> {
        let scale = 1.0 / self.count.max(1) as f64;
        (0..self.size()).map(|i| self.entry(i, i) * scale).collect()
    }

    /// Whether only the diagonal is known.
    pub fn is_diagonal(&self) -> bool {
        matches!(self.sum, Sum::Diagonal(_))
    }

    /// The second moment whose mean is the sum of both means, of as many rows as this one.
    ///
    /// # Panics
    ///
    /// Panics if the sizes differ.
    pub fn plus(&self, other: &Self) -> Self {
        let scale = self.count.max(1) as f64 / other.count.max(1) as f64;
        let size = self.size();
        assert_eq!(size, other.size(), "moments of rows of one length");
        let of = |row, col| self.entry(row, col) + scale * other.entry(row, col);
        let lower = |row, col| if col <= row { of(row, col) } else { 0.0 };
        let (sum, count) = (Sum::Full(Mat::from_fn(size, size, lower)), self.count);
        Self { sum, count, fourth: None }
    }

    /// Length of a row.
    pub fn size(&self) -> usize {
        match &self.sum {
            Sum::Full(sum) => sum.nrows(),
            Sum::Diagonal(sum) => sum.len(),
        }
    }

    /// An entry of the sum, in its lower half.
    pub(super) fn entry(&self, row: usize, col: usize) -> f64 {
        match &self.sum {
            Sum::Full(sum) => sum[(row, col)],
            Sum::Diagonal(sum) if row == col => sum[row],
            Sum::Diagonal(_) => 0.0,
        }
    }

    /// Number of rows so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds another sum. A sum of which only the diagonal is known stays one.
    ///
    /// # Panics
    ///
    /// Panics if the sizes differ.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.size(), other.size(), "sums of rows of one length");
        match (&mut self.sum, &other.sum) {
            (Sum::Full(sum), Sum::Full(added)) => *sum += added,
            (Sum::Full(sum), Sum::Diagonal(added)) => {
                added.iter().enumerate().for_each(|(i, x)| sum[(i, i)] += x);
            }
            (Sum::Diagonal(sum), _) => {
                sum.iter_mut().enumerate().for_each(|(i, sum)| *sum += other.entry(i, i));
            }
        }
        self.fourth = self.fourth.zip(other.fourth).map(|(own, added)| own + added);
        self.count += other.count;
    }

    /// Adds the mean of another sum as often as it takes to have `rows` rows. Nothing changes if there are
    /// as many already, or if the other sum has no rows.
    ///
    /// # Panics
    ///
    /// Panics if the sizes differ.
    pub fn fill_up(&mut self, other: &Self, rows: u64) {
        assert_eq!(self.size(), other.size(), "sums of rows of one length");
        let missing = rows.saturating_sub(self.count);
        if missing == 0 || other.count == 0 {
            return;
        }
        let scale = missing as f64 / other.count as f64;
        match &mut self.sum {
            Sum::Full(sum) => {
                for col in 0..sum.ncols() {
                    for row in col..sum.nrows() {
                        sum[(row, col)] += scale * other.entry(row, col);
                    }
                }
            }
            Sum::Diagonal(sum) => {
                sum.iter_mut().enumerate().for_each(|(i, sum)| *sum += scale * other.entry(i, i));
            }
        }
        self.fourth = self.fourth.zip(other.fourth).map(|(own, added)| own + scale * added);
        self.count = rows;
    }

    /// The sum over `among` rows: `rows` of them have the mean of this sum, and the others are 0.
    pub fn among(mut self, rows: u64, among: u64) -> Self {
        let scale = rows as f64 / self.count.max(1) as f64;
        match &mut self.sum {
            Sum::Full(sum) => {
                for col in 0..sum.ncols() {
                    sum.col_mut(col).iter_mut().for_each(|sum| *sum *= scale);
                }
            }
            Sum::Diagonal(sum) => sum.iter_mut().for_each(|sum| *sum *= scale),
        }
        self.fourth = self.fourth.map(|fourth| fourth * scale);
        self.count = among;
        self
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
        self.count += x.nrows() as u64;
        if let Some(fourth) = &mut self.fourth {
            let square = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            *fourth += rows.chunks(size).map(|row| square(row).powi(2)).sum::<f64>();
        }
        let sum = match &mut self.sum {
            Sum::Full(sum) => sum,
            Sum::Diagonal(sum) => {
                for row in rows.chunks(size) {
                    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x).powi(2));
                }
                return;
            }
        };
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
                sum[(row, col)] += f64::from(part[(row, col)]);
            }
        }
    }

    /// Whether every entry is a number.
    pub fn is_finite(&self) -> bool {
        match &self.sum {
            Sum::Full(sum) => {
                (0..sum.ncols()).all(|col| sum.col(col).iter().all(|x| x.is_finite()))
            }
            Sum::Diagonal(sum) => sum.iter().all(|x| x.is_finite()),
        }
    }

    /// The root of the mean, shrunk.
    ///
    /// # Errors
    ///
    /// [`LinalgError::NotFinite`], [`LinalgError::NoConvergence`], and
    /// [`LinalgError::UnknownSpread`] for [`Shrink::Data`] if it is not known how much rows differ.
    pub fn root(&self, shrink: impl Into<Shrink>) -> Result<Root, LinalgError> {
        let shrink = shrink.into();
        if !self.is_diagonal() {
            return Ok(Root::full(root(&self.shrunk_by(shrink)?)?));
        }
        let (kept, added) = self.shares(shrink)?;
        diagonal_root(self.squares().into_iter().map(|x| kept * x + added).collect())
    }

    /// The mean `E[x xᵀ]`.
    pub(super) fn mean(&self) -> Mat<f64> {
        self.damped(0.0)
    }

    /// The mean with `share` times the mean of its diagonal added to the diagonal, as in GPTQ.
    pub(super) fn damped(&self, share: f64) -> Mat<f64> {
        let (size, scale) = (self.size(), 1.0 / self.count.max(1) as f64);
        let diagonal = (0..size).map(|i| self.entry(i, i)).sum::<f64>();
        let added = share * diagonal * scale / size as f64;
        Mat::from_fn(size, size, |i, j| {
            let entry = self.entry(i.max(j), i.min(j)) * scale;
            if i == j { entry + added } else { entry }
        })
    }
}

/// The lower triangular `L` for which `L Lᵀ` is a second moment.
#[derive(Debug, Clone)]
pub struct Root {
    triangle: Triangle,
    /// Made when a matrix is first rounded with it.
    feedback: OnceLock<Arc<Feedback>>,
}

#[derive(Debug, Clone)]
enum Triangle {
    Full(Mat<f64>),
    Diagonal(Vec<f64>),
}

impl Root {
    pub(super) fn full(lower: Mat<f64>) -> Self {
        Self::of(Triangle::Full(lower))
    }

    fn of(triangle: Triangle) -> Self {
        Self { triangle, feedback: OnceLock::new() }
    }

    /// How the entries of a matrix make up for each other that are rounded in the norm of this root.
    ///
    /// # Errors
    ///
    /// [`LinalgError::NotFinite`], [`LinalgError::NoConvergence`].
    pub(super) fn feedback(&self) -> Result<Arc<Feedback>, LinalgError> {
        if let Some(made) = self.feedback.get() {
            return Ok(made.clone());
        }
        let square = match &self.triangle {
            Triangle::Full(lower) => lower_product(lower.as_ref(), lower.transpose()),
            Triangle::Diagonal(roots) => Mat::from_fn(roots.len(), roots.len(), |i, j| {
                if i == j { roots[i] * roots[i] } else { 0.0 }
            }),
        };
        let made = Arc::new(Feedback::of_mean(&square)?);
        Ok(self.feedback.get_or_init(|| made).clone())
    }

    /// The same for some of the entries alone, of which the others do not make up for anything.
    ///
    /// # Errors
    ///
    /// Those of [`feedback`](Self::feedback).
    pub(super) fn feedback_of(&self, chosen: &[usize]) -> Result<Feedback, LinalgError> {
        let size = chosen.len();
        let square = match &self.triangle {
            Triangle::Full(lower) => {
                let part = Mat::from_fn(size, lower.ncols(), |i, j| lower[(chosen[i], j)]);
                lower_product(part.as_ref(), part.transpose())
            }
            Triangle::Diagonal(roots) => Mat::from_fn(size, size, |i, j| {
                if i == j { roots[chosen[i]] * roots[chosen[i]] } else { 0.0 }
            }),
        };
        Feedback::of_mean(&square)
    }

    /// Number of rows and columns.
    pub fn size(&self) -> usize {
        match &self.triangle {
            Triangle::Full(lower) => lower.nrows(),
            Triangle::Diagonal(roots) => roots.len(),
        }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> u64 {
        let entries = match &self.triangle {
            Triangle::Full(lower) => lower.nrows() * lower.ncols(),
            Triangle::Diagonal(roots) => roots.len(),
        };
        (entries * size_of::<f64>()) as u64
    }

    /// `M L`.
    pub(super) fn after(&self, matrix: MatRef<'_, f64>) -> Mat<f64> {
        match &self.triangle {
            Triangle::Full(lower) => matrix * lower,
            Triangle::Diagonal(roots) => {
                Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| matrix[(i, j)] * roots[j])
            }
        }
    }

    /// `Lᵀ M`.
    pub(super) fn transposed_before(&self, matrix: MatRef<'_, f64>) -> Mat<f64> {
        match &self.triangle {
            Triangle::Full(lower) => lower.transpose() * matrix,
            Triangle::Diagonal(roots) => {
                Mat::from_fn(matrix.nrows(), matrix.ncols(), |i, j| roots[i] * matrix[(i, j)])
            }
        }
    }

    /// Solves `Lᵀ X = M`, with `M` replaced by `X`.
    pub(super) fn divide_transposed(&self, matrix: &mut Mat<f64>) {
        match &self.triangle {
            Triangle::Full(lower) => solve_upper_triangular_in_place(
                lower.transpose(),
                matrix.as_mut(),
                get_global_parallelism(),
            ),
            Triangle::Diagonal(roots) => {
                for col in 0..matrix.ncols() {
                    for (row, root) in roots.iter().enumerate() {
                        matrix[(row, col)] /= root;
                    }
                }
            }
        }
    }

    /// Its entries.
    ///
    /// # Errors
    ///
    /// [`LinalgError::NotFinite`], [`LinalgError::Empty`].
    pub fn to_matrix(&self) -> Result<Matrix, LinalgError> {
        match &self.triangle {
            Triangle::Full(lower) => Matrix::from_view(lower.as_ref()),
            Triangle::Diagonal(roots) => {
                let entry = |i: usize, j: usize| if i == j { roots[i] } else { 0.0 };
                Matrix::from_view(Mat::from_fn(roots.len(), roots.len(), entry).as_ref())
            }
        }
    }
}

/// Number of entries in the lower half of a square matrix.
pub fn packed_len(size: usize) -> usize {
    size * (size + 1) / 2
}

pub(super) fn view(rows: &[f32], size: usize) -> MatRef<'_, f32> {
    assert_eq!(rows.len() % size, 0, "there are whole rows");
    MatRef::from_row_major_slice(rows, rows.len() / size, size)
}

/// The smallest eigenvalue of a second moment that has a root, as a share of the largest.
const SMALLEST: f64 = 1e-10;

/// The least that eigenvalues are raised to.
fn floor_of(values: &[f64]) -> f64 {
    let largest = values.iter().fold(0.0f64, |most, value| most.max(*value));
    // All zero: any invertible root will do.
    if largest > 0.0 { SMALLEST * largest } else { 1.0 }
}

/// The same for a diagonal matrix, whose entries are its eigenvalues.
fn diagonal_root(squares: Vec<f64>) -> Result<Root, LinalgError> {
    if let Some(i) = squares.iter().position(|x| !x.is_finite()) {
        return Err(LinalgError::NotFinite { row: i, col: i, value: squares[i] });
    }
    let floor = floor_of(&squares);
    let roots = squares.into_iter().map(|x| x.max(floor).sqrt()).collect();
    Ok(Root::of(Triangle::Diagonal(roots)))
}

/// The lower triangular `L` with `L Lᵀ = M` for a symmetric positive semidefinite matrix, by
/// Cholesky. Where rounding or missing data leave no positive pivots, it comes from the
/// eigenvalues, and those below `1e-10` of the largest are raised to that.
pub(super) fn root(matrix: &Mat<f64>) -> Result<Mat<f64>, LinalgError> {
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
    let floor = floor_of(&values);
    let size = values.len();
    // M = (Λ½ Qᵀ)ᵀ (Λ½ Qᵀ), and the triangle of its QR decomposition is a root.
    let half = Mat::from_fn(size, size, |i, j| values[i].max(floor).sqrt() * eigen.U()[(j, i)]);
    Ok(half.qr().thin_R().transpose().to_owned())
}
