use faer::linalg::solvers::Svd;
use faer::{Mat, MatRef, Side};

use super::band::symmetric_eigenvalues;
use super::eigen::{Eigenpairs, largest_pairs};
use super::leading::{Attempt, Single, is_worth_it, leading_eigen};
use super::matrix::{LinalgError, Matrix, lower_product};

/// If the smaller side has at least this size, decompositions use the Gram matrix.
///
/// Its symmetric eigenproblem is three to six times as fast as the singular value
/// decomposition at the shapes of models (`benches/decomposition.rs`), because half of the work
/// is one product. It squares the condition number: in f64 an eigenvalue is accurate to about
/// `ε λ₁`, so a singular value to about 1e-8 of the largest; f32 weights are accurate to 6e-8.
/// Below this size the singular value decomposition itself is fast enough.
const GRAM: usize = 64;

/// From this size on, eigenvalues without vectors are found by way of a band, which from about
/// here on is faster on one core than the direct reduction: 4.5 s instead of 7.2 s at 4096.
const BAND: usize = 1024;

/// All `min(rows, cols)` singular values, largest first. Each has an error of at most 1e-7 times
/// the largest, and is exact up to rounding for matrices with a side below 64.
///
/// # Errors
///
/// [`LinalgError::NoConvergence`], which finite input has not been seen to cause.
pub fn singular_values(matrix: &Matrix) -> Result<Vec<f64>, LinalgError> {
    let (data, scale) = matrix.scaled();
    let view = MatRef::from_row_major_slice(&data, matrix.rows(), matrix.cols());
    let values = if matrix.full_rank() < GRAM {
        view.singular_values().map_err(|_| LinalgError::NoConvergence)?
    } else {
        let gram = gram(view);
        let squares = if gram.nrows() < BAND {
            let rising = gram
                .self_adjoint_eigenvalues(Side::Lower)
                .map_err(|_| LinalgError::NoConvergence)?;
            rising.into_iter().rev().collect()
        } else {
            symmetric_eigenvalues(gram)?
        };
        squares.into_iter().map(|value: f64| value.max(0.0).sqrt()).collect()
    };
    Ok(values.into_iter().map(|s| s * scale).collect())
}

/// The lower half of the Gram matrix of the smaller side.
pub(super) fn gram(view: MatRef<'_, f64>) -> Mat<f64> {
    let view = if view.nrows() <= view.ncols() { view } else { view.transpose() };
    lower_product(view, view.transpose())
}

/// The best approximation of a matrix at a given rank, as two factors of equal norm.
///
/// `left = U_k √S_k` and `right = √S_k V_kᵀ`, so that `left · right` is the truncated
/// singular value decomposition (Eckart-Young) and both factors start at the same scale
/// (WeLore, arXiv 2407.11239, section 3.3). In another norm than the plain one, the vectors of a
/// component are not singular vectors, but also of the same length.
#[derive(Debug, Clone, PartialEq)]
pub struct BalancedFactors {
    /// `U_k √S_k`, `[rows, k]`.
    pub left: Matrix,
    /// `√S_k V_kᵀ`, `[k, cols]`.
    pub right: Matrix,
    /// Relative Frobenius error of `left · right`: `‖A - A_k‖ / ‖A‖`, 0 for a zero matrix.
    pub relative_error: f64,
    /// `‖A‖`.
    pub size: f64,
}

impl BalancedFactors {
    /// The kept rank `k`.
    pub fn rank(&self) -> usize {
        self.left.cols()
    }

    /// Gives both vectors of each component the same length, without changing their product.
    pub(super) fn balanced(self) -> Result<Self, LinalgError> {
        let Self { left, right, relative_error, size } = self;
        let (rows, rank, cols) = (left.rows(), left.cols(), right.cols());
        let (mut left, mut right) = (left.into_data(), right.into_data());
        let scale = |(of_left, row): (f64, &[f64])| {
            let scale = column_lengths(row, 1)[0].sqrt() / of_left.sqrt();
            // A component of zeros stays as it is.
            if scale > 0.0 && scale.is_finite() { scale } else { 1.0 }
        };
        let lengths = column_lengths(&left, rank).into_iter();
        let scales: Vec<f64> = lengths.zip(right.chunks_exact(cols)).map(scale).collect();
        for row in left.chunks_exact_mut(rank) {
            row.iter_mut().zip(&scales).for_each(|(x, scale)| *x *= scale);
        }
        for (row, scale) in right.chunks_exact_mut(cols).zip(&scales) {
            row.iter_mut().for_each(|x| *x /= scale);
        }
        let (left, right) = (Matrix::new(rows, rank, left)?, Matrix::new(rank, cols, right)?);
        Ok(Self { left, right, relative_error, size })
    }
}

/// The lengths of the columns of row-major entries; squares neither overflow nor vanish.
fn column_lengths(entries: &[f64], cols: usize) -> Vec<f64> {
    let mut largest = vec![0.0f64; cols];
    for row in entries.chunks_exact(cols) {
        largest.iter_mut().zip(row).for_each(|(most, x)| *most = most.max(x.abs()));
    }
    let mut squares = vec![0.0f64; cols];
    for row in entries.chunks_exact(cols) {
        for ((sum, x), most) in squares.iter_mut().zip(row).zip(&largest) {
            *sum += if *most > 0.0 { (x / most).powi(2) } else { 0.0 };
        }
    }
    largest.iter().zip(squares).map(|(most, sum)| most * sum.sqrt()).collect()
}

/// Factors a matrix at `rank`.
///
/// # Errors
///
/// [`LinalgError::Rank`] if the rank is not in `1..=min(rows, cols)`,
/// [`LinalgError::NoConvergence`] as for [`singular_values`], [`LinalgError::NotFinite`] if the
/// factors overflow.
pub fn balanced_factors(matrix: &Matrix, rank: usize) -> Result<BalancedFactors, LinalgError> {
    let full = matrix.full_rank();
    if !(1..=full).contains(&rank) {
        return Err(LinalgError::Rank { rank, full });
    }
    let (data, scale) = matrix.scaled();
    let view = MatRef::from_row_major_slice(&data, matrix.rows(), matrix.cols());
    let by_gram = if full < GRAM { None } else { by_gram(view, rank)? };
    let decomposed = match by_gram {
        Some(decomposed) => decomposed,
        None => by_svd(view, rank)?,
    };
    let Decomposed { values, left, right, relative_error } = decomposed;
    let root: Vec<f64> = values[..rank].iter().map(|s| (s * scale).sqrt()).collect();
    let left = (0..matrix.rows())
        .flat_map(|i| {
            root.iter().enumerate().map(|(k, root)| left[(i, k)] * root).collect::<Vec<_>>()
        })
        .collect();
    let right = root
        .iter()
        .enumerate()
        .flat_map(|(k, root)| right.col(k).iter().map(move |x| x * root))
        .collect();
    let left = Matrix::new(matrix.rows(), rank, left)?;
    let right = Matrix::new(rank, matrix.cols(), right)?;
    Ok(BalancedFactors { left, right, relative_error, size: matrix.norm() })
}

/// The singular values and vectors, at least as many as are kept.
struct Decomposed {
    values: Vec<f64>,
    /// `U`, one vector per column.
    left: Mat<f64>,
    /// `V`, one vector per column.
    right: Mat<f64>,
    relative_error: f64,
}

fn by_svd(view: MatRef<'_, f64>, rank: usize) -> Result<Decomposed, LinalgError> {
    let svd: Svd<f64> = view.thin_svd().map_err(|_| LinalgError::NoConvergence)?;
    let values: Vec<f64> = svd.S().column_vector().iter().copied().collect();
    let energy = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>();
    let total = energy(&values);
    let relative_error = if total == 0.0 { 0.0 } else { (energy(&values[rank..]) / total).sqrt() };
    Ok(Decomposed { values, relative_error, left: svd.U().to_owned(), right: svd.V().to_owned() })
}

/// The energy left out must be more than this share of the total for the Gram matrix to be accurate
/// enough: its eigenvalues are accurate to a few hundred units of rounding, so the remaining error
/// is within 1e-4 of the best.
const TAIL: f64 = 1e-9;

/// Vectors with singular values below this share of the largest are unreliable.
const SMALLEST: f64 = 1e-5;

/// The decomposition by the Gram matrix of the smaller side: its eigenvectors are the vectors of
/// that side, and their products with the matrix give those of the other side. `None` if that
/// would not be accurate enough.
fn by_gram(view: MatRef<'_, f64>, rank: usize) -> Result<Option<Decomposed>, LinalgError> {
    let wide = view.nrows() <= view.ncols();
    let across = if wide { view } else { view.transpose() };
    let side = across.nrows();
    let total = view.squared_norm_l2();
    let Kept { values, vectors } = match leading(across, rank)? {
        Some(vectors) => Kept { values: None, vectors },
        None => all_eigen(&gram(view), rank)?,
    };
    let mut images = across.transpose() * &vectors;
    // The squares of the images' lengths are the eigenvalues.
    let lengths = || (0..rank).map(|k| images.col(k).norm_l2()).collect();
    let values: Vec<f64> = values.unwrap_or_else(lengths);
    let tail = total - values.iter().map(|value| value * value).sum::<f64>();
    let all_kept = rank == side;
    if (!all_kept && tail <= TAIL * total) || values[rank - 1] <= SMALLEST * values[0] {
        return Ok(None);
    }
    for (k, value) in values.iter().enumerate() {
        images.col_mut(k).iter_mut().for_each(|x| *x /= value);
    }
    let (left, right) = if wide { (vectors, images) } else { (images, vectors) };
    let relative_error = if all_kept { 0.0 } else { (tail / total).sqrt() };
    Ok(Some(Decomposed { values, left, right, relative_error }))
}

/// Leading eigenpairs of the Gram matrix.
struct Kept {
    /// Singular values, if they are known.
    values: Option<Vec<f64>>,
    /// One orthonormal eigenvector per column.
    vectors: Mat<f64>,
}

/// The leading left singular vectors of a wide matrix, if they cost less to find than all.
fn leading(across: MatRef<'_, f64>, rank: usize) -> Result<Option<Mat<f64>>, LinalgError> {
    // A zero matrix has no leading vectors.
    if !is_worth_it(across.nrows(), rank) || across.norm_max() == 0.0 {
        return Ok(None);
    }
    let mut attempt = leading_eigen(Single::product(across), rank)?;
    if matches!(attempt, Attempt::Noisy) {
        let exact = lower_product(across, across.transpose());
        attempt = leading_eigen(Single::rounded(&exact), rank)?;
    }
    match attempt {
        Attempt::Found(vectors) => Ok(Some(vectors)),
        Attempt::Noisy | Attempt::Unsuited => Ok(None),
    }
}

/// The leading eigenpairs, from the decomposition of the whole matrix.
fn all_eigen(gram: &Mat<f64>, count: usize) -> Result<Kept, LinalgError> {
    let Eigenpairs { values, vectors } = largest_pairs(gram, count)?;
    let values = values.into_iter().map(|value| value.max(0.0).sqrt()).collect();
    Ok(Kept { values: Some(values), vectors })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic entries in (-1, 1), spread enough to be of full rank.
    fn entries(rows: usize, cols: usize) -> Vec<f64> {
        let mut state = 0x9e3779b97f4a7c15u64;
        (0..rows * cols)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
            })
            .collect()
    }

    fn matrix(rows: usize, cols: usize, data: Vec<f64>) -> Matrix {
        Matrix::new(rows, cols, data).unwrap()
    }

    fn product(a: &[f64], b: &[f64], rows: usize, inner: usize, cols: usize) -> Vec<f64> {
        let mut out = vec![0.0; rows * cols];
        for i in 0..rows {
            for k in 0..inner {
                for j in 0..cols {
                    out[i * cols + j] += a[i * inner + k] * b[k * cols + j];
                }
            }
        }
        out
    }

    fn norm(x: &[f64]) -> f64 {
        x.iter().map(|x| x * x).sum::<f64>().sqrt()
    }

    /// `Q1 diag(values) Q2`, with reflections as the orthogonal matrices.
    fn with_spectrum(rows: usize, cols: usize, values: &[f64]) -> Matrix {
        let reflection = |n: usize| {
            let v = entries(n, 1);
            let length: f64 = v.iter().map(|x| x * x).sum();
            let mut q = vec![0.0; n * n];
            for i in 0..n {
                for j in 0..n {
                    q[i * n + j] = f64::from(u8::from(i == j)) - 2.0 * v[i] * v[j] / length;
                }
            }
            q
        };
        let mut middle = vec![0.0; rows * cols];
        for (i, value) in values.iter().enumerate() {
            middle[i * cols + i] = *value;
        }
        let left = product(&reflection(rows), &middle, rows, rows, cols);
        matrix(rows, cols, product(&left, &reflection(cols), rows, cols, cols))
    }

    /// Checks values, reconstruction at every rank against Eckart-Young, and balance.
    fn check(case: &str, m: &Matrix, expected: Option<&[f64]>) {
        let values = singular_values(m).unwrap();
        let largest = values[0];
        let full = m.full_rank();
        // Backward stable algorithms: a few units of rounding, times the size.
        let tolerance = 8.0 * f64::EPSILON * (m.rows() + m.cols()) as f64;
        assert_eq!(values.len(), full, "{case}");
        assert!(values.windows(2).all(|w| w[0] >= w[1]), "{case}: not sorted");
        if let Some(expected) = expected {
            for (got, want) in values.iter().zip(expected) {
                assert!((got - want).abs() <= tolerance * largest, "{case}: {got} for {want}");
            }
        }
        for rank in 1..=full {
            let f = balanced_factors(m, rank).unwrap();
            let approx = f.left.product(&f.right).unwrap();
            let error: Vec<f64> = m.data().iter().zip(approx.data()).map(|(a, b)| a - b).collect();
            let optimal = norm(&values[rank..]);
            assert!(
                norm(&error) <= optimal * (1.0 + 1e-9) + tolerance * norm(&values),
                "{case} at rank {rank}: {} against {optimal}",
                norm(&error)
            );
            let (l, r) = (f.left.norm(), f.right.norm());
            assert!((l - r).abs() <= 1e-9 * l, "{case}: factors of norms {l} and {r}");
        }
    }

    #[test]
    fn random_matrices_of_all_shapes() {
        for (rows, cols) in [(1, 1), (1, 7), (7, 1), (5, 5), (12, 5), (5, 12), (40, 33)] {
            check(&format!("{rows}x{cols}"), &matrix(rows, cols, entries(rows, cols)), None);
        }
    }

    #[test]
    fn known_spectra_heavy_tailed_clustered_and_deficient() {
        let heavy: Vec<f64> = (0..9).map(|i| 0.5f64.powi(i)).collect();
        let clustered = [3.0, 3.0, 3.0, 1.0, 1.0, 1.0, 1e-3, 1e-3, 1e-3];
        let deficient = [2.0, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let wide_range: Vec<f64> = (0..9).map(|i| 10f64.powi(-2 * i)).collect();
        for (name, values) in [
            ("heavy", &heavy[..]),
            ("clustered", &clustered),
            ("deficient", &deficient),
            ("range", &wide_range),
        ] {
            check(name, &with_spectrum(9, 14, values), Some(values));
            check(name, &with_spectrum(14, 9, values), Some(values));
        }
    }

    #[test]
    fn extreme_scales_keep_relative_accuracy() {
        for scale in
            [f64::from(f32::MIN_POSITIVE) / 4096.0, 1e-300, 1e30, f64::from(f32::MAX), 1e300]
        {
            let values: Vec<f64> = (0..6).map(|i| scale * 0.7f64.powi(i)).collect();
            let unit: Vec<f64> = values.iter().map(|v| v / scale).collect();
            let base = with_spectrum(6, 8, &unit);
            let m = matrix(6, 8, base.data().iter().map(|x| x * scale).collect());
            let got = singular_values(&m).unwrap();
            for (got, want) in got.iter().zip(&values) {
                assert!((got - want).abs() <= 1e-13 * values[0], "{got} for {want}");
            }
            let f = balanced_factors(&m, 3).unwrap();
            assert!(f.left.data().iter().chain(f.right.data()).all(|x| x.is_finite()));
        }
    }

    #[test]
    fn zero_matrix_has_zero_values_and_finite_factors() {
        let m = matrix(4, 3, vec![0.0; 12]);
        assert_eq!(singular_values(&m).unwrap(), vec![0.0; 3]);
        let f = balanced_factors(&m, 2).unwrap();
        assert!(f.left.data().iter().chain(f.right.data()).all(|x| *x == 0.0));
        assert_eq!(f.relative_error, 0.0);
    }

    #[test]
    fn impossible_input_is_refused() {
        assert!(matches!(Matrix::new(0, 3, vec![]), Err(LinalgError::Empty { .. })));
        assert!(matches!(Matrix::new(2, 3, vec![1.0; 5]), Err(LinalgError::Length { .. })));
        assert!(matches!(
            Matrix::new(2, 2, vec![1.0, f64::NAN, 0.0, 0.0]),
            Err(LinalgError::NotFinite { row: 0, col: 1, .. })
        ));
        let m = matrix(2, 3, vec![1.0; 6]);
        for rank in [0, 3] {
            assert_eq!(balanced_factors(&m, rank), Err(LinalgError::Rank { rank, full: 2 }));
        }
    }

    /// Values and errors of large matrices, against the plain decomposition in f64.
    fn check_large(case: &str, m: &Matrix, ranks: &[usize]) {
        let view = m.view();
        let exact = view.singular_values().unwrap();
        for (got, want) in singular_values(m).unwrap().iter().zip(&exact) {
            assert!((got - want).abs() <= 1e-7 * exact[0], "{case}: {got} for {want}");
        }
        for &rank in ranks {
            let f = balanced_factors(m, rank).unwrap();
            let error = (view - f.left.view() * f.right.view()).norm_l2();
            let optimal = norm(&exact[rank..]);
            // If nothing is left out, the error is only rounding.
            let slack = 1e-12 * norm(&exact);
            assert!(error <= 1.0001 * optimal + slack, "{case} at {rank}: {error} for {optimal}");
            let (l, r) = (f.left.norm(), f.right.norm());
            assert!((l - r).abs() <= 1e-6 * l, "{case} at {rank}: factors of norms {l} and {r}");
        }
    }

    #[test]
    fn large_matrices_are_as_good_as_by_the_plain_decomposition() {
        let spectrum = |value: fn(usize) -> f64| (0..96).map(value).collect::<Vec<_>>();
        let cases = [
            ("heavy", spectrum(|i| 1.0 / (i + 1) as f64)),
            ("flat", spectrum(|i| 1.0 + 1e-3 * (i % 7) as f64)),
            ("clustered", spectrum(|i| [5.0, 1.0, 1e-2][i / 32])),
            ("deficient", spectrum(|i| if i < 40 { 1.0 } else { 0.0 })),
            ("steep", spectrum(|i| 0.5f64.powi(i as i32))),
            ("one", spectrum(|i| f64::from(u8::from(i == 0)))),
        ];
        for (case, mut values) in cases {
            values.sort_by(|a, b| b.total_cmp(a));
            for (rows, cols) in [(96, 130), (130, 96), (96, 96)] {
                for scale in [1.0, 1e-30, 1e30] {
                    let m = with_spectrum(rows, cols, &values);
                    let m = matrix(rows, cols, m.data().iter().map(|x| x * scale).collect());
                    check_large(case, &m, &[1, 12, 39, 40, 41, 95, 96]);
                }
            }
        }
        check_large("random", &matrix(100, 80, entries(100, 80)), &[1, 40, 79, 80]);
        check_large("zero", &matrix(70, 80, vec![0.0; 5600]), &[1, 70]);
    }

    #[test]
    fn large_zero_and_deficient_matrices_have_no_leading_part() {
        let side = 1024;
        let zero = Mat::<f64>::zeros(side, side);
        assert!(leading(zero.as_ref(), 150).unwrap().is_none());
        let deficient = Mat::from_fn(side, side, |i, j| ((i % 7) * (j % 5)) as f64);
        assert!(leading(deficient.as_ref(), 150).unwrap().is_none());
    }
}
