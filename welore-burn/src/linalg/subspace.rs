use faer::{MatRef, Side};

use super::matrix::{LinalgError, Matrix};
use super::svd::gram;

/// The `rank` leading left singular vectors of a matrix, as the columns of a `[rows, rank]`
/// matrix.
///
/// They are the leading eigenvectors of the Gram matrix `A Aᵀ`, which squares the condition
/// number: vectors with singular values below 1e-8 of the largest are unreliable. Meant for
/// projecting onto the leading subspace, where those do not matter, and much faster than a
/// decomposition of `A` when it is wide.
///
/// # Errors
///
/// [`LinalgError::Rank`] for a rank that is impossible, [`LinalgError::NoConvergence`].
pub fn leading_left_vectors(matrix: &Matrix, rank: usize) -> Result<Matrix, LinalgError> {
    let rows = matrix.rows();
    let full = matrix.full_rank();
    if !(1..=full).contains(&rank) {
        return Err(LinalgError::Rank { rank, full });
    }
    let (scaled, _) = matrix.scaled();
    let view = MatRef::from_row_major_slice(&scaled, rows, matrix.cols());
    let gram = view * view.transpose();
    let eigen = gram.self_adjoint_eigen(Side::Lower).map_err(|_| LinalgError::NoConvergence)?;
    // Eigenvalues come in rising order.
    last_columns(eigen.U(), rank)
}

/// The last columns of a square matrix, the last one first.
fn last_columns(vectors: MatRef<'_, f64>, count: usize) -> Result<Matrix, LinalgError> {
    Matrix::from_view(vectors.reverse_cols().get(.., ..count))
}

/// The singular values of a matrix, and the leading singular vectors of its smaller side.
#[derive(Debug, Clone, PartialEq)]
pub struct LeadingSubspace {
    /// All `min(rows, cols)` singular values, largest first. Each has an error of at most 1e-7
    /// times the largest.
    pub values: Vec<f64>,
    /// The leading vectors as the columns of a `[min(rows, cols), rank]` matrix: left vectors if
    /// the matrix has no more rows than columns, else right vectors.
    pub vectors: Matrix,
}

/// Singular values and the `rank` leading singular vectors of the smaller side, from one
/// decomposition of the Gram matrix of that side. As in [`leading_left_vectors`], vectors with
/// small singular values are unreliable.
///
/// # Errors
///
/// [`LinalgError::Rank`] for a rank that is impossible, [`LinalgError::NoConvergence`].
pub fn leading_subspace(matrix: &Matrix, rank: usize) -> Result<LeadingSubspace, LinalgError> {
    let full = matrix.full_rank();
    if !(1..=full).contains(&rank) {
        return Err(LinalgError::Rank { rank, full });
    }
    let (scaled, scale) = matrix.scaled();
    let gram = gram(MatRef::from_row_major_slice(&scaled, matrix.rows(), matrix.cols()));
    let eigen = gram.self_adjoint_eigen(Side::Lower).map_err(|_| LinalgError::NoConvergence)?;
    // Eigenvalues come in rising order.
    let root = |square: f64| square.max(0.0).sqrt() * scale;
    let values = eigen.S().column_vector().iter().rev().copied().map(root).collect();
    Ok(LeadingSubspace { values, vectors: last_columns(eigen.U(), rank)? })
}

/// The similarity of two subspaces, in `[0, 1]`: the mean squared cosine of the principal angles
/// between them, `‖Aᵀ B‖_F² / rank`.
///
/// This is the similarity of the LoRA paper (arXiv 2106.09685, section 7.2) for subspaces of equal
/// dimension. It is 1 for the same subspace in any basis, 0 for orthogonal ones, and `rank / n` on
/// average for random ones.
///
/// # Shapes
///
/// - a, b: orthonormal columns, `[n, rank]`
///
/// # Panics
///
/// Panics if the shapes differ.
pub fn subspace_similarity(a: &Matrix, b: &Matrix) -> f64 {
    let rank = a.cols();
    assert_eq!(a.rows(), b.rows(), "subspaces of different spaces cannot be compared");
    assert_eq!(rank, b.cols(), "subspaces of different dimensions cannot be compared");
    let (a, b) = (a.data(), b.data());
    let cosine = |i: usize, j: usize| -> f64 {
        a.chunks_exact(rank).zip(b.chunks_exact(rank)).map(|(a, b)| a[i] * b[j]).sum()
    };
    let pairs = (0..rank).flat_map(|i| (0..rank).map(move |j| (i, j)));
    let common: f64 = pairs.map(|(i, j)| cosine(i, j).powi(2)).sum();
    (common / rank as f64).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::super::singular_values;
    use super::*;

    #[test]
    fn projection_on_the_leading_vectors_keeps_all_of_a_low_rank_matrix() {
        // Rank 2, with entries of very different sizes.
        let (rows, cols) = (6, 9);
        let entry = |i: usize, j: usize| {
            1e6 * (i + 1) as f64 * (j % 4) as f64 - 3e3 * (i * i) as f64 * (j + 2) as f64
        };
        let data: Vec<f64> = (0..rows * cols).map(|k| entry(k / cols, k % cols)).collect();
        let matrix = Matrix::new(rows, cols, data.clone()).unwrap();
        let vectors = leading_left_vectors(&matrix, 2).unwrap();
        let basis = vectors;
        let transposed = basis.transposed();
        let kept = basis.product(&transposed.product(&matrix).unwrap()).unwrap();
        let largest = data.iter().fold(0.0f64, |max, x| max.max(x.abs()));
        for (a, b) in data.iter().zip(kept.data()) {
            assert!((a - b).abs() < 1e-9 * largest, "{a} {b}");
        }
        let gram = transposed.product(&basis).unwrap();
        for (k, x) in gram.data().iter().enumerate() {
            assert!((x - f64::from(u8::from(k % 3 == 0))).abs() < 1e-12);
        }
    }

    #[test]
    fn impossible_ranks_are_refused() {
        let matrix = Matrix::new(2, 3, vec![1.0; 6]).unwrap();
        assert_eq!(leading_left_vectors(&matrix, 3), Err(LinalgError::Rank { rank: 3, full: 2 }));
        assert!(leading_left_vectors(&matrix, 0).is_err());
        assert_eq!(leading_subspace(&matrix, 3), Err(LinalgError::Rank { rank: 3, full: 2 }));
        assert!(leading_subspace(&matrix, 0).is_err());
    }

    /// `sum of values[k] · left_k right_kᵀ`, with unit vectors turned by an angle in the plane of
    /// the first two.
    fn turned(rows: usize, cols: usize, values: &[f64], angle: f64) -> Matrix {
        let side = rows.min(cols);
        let (sin, cos) = angle.sin_cos();
        let place = |i: usize, j: usize| if rows <= cols { i * cols + j } else { j * cols + i };
        let mut data = vec![0.0; rows * cols];
        for (k, value) in values.iter().enumerate() {
            // The k-th column of the rotation.
            let column = |i: usize| match (i, k) {
                (0, 0) | (1, 1) => cos,
                (1, 0) => sin,
                (0, 1) => -sin,
                _ => f64::from(u8::from(i == k)),
            };
            for i in 0..side {
                data[place(i, k)] += value * column(i);
            }
        }
        Matrix::new(rows, cols, data).unwrap()
    }

    #[test]
    fn leading_subspace_is_that_of_the_smaller_side_with_all_values() {
        for (rows, cols) in [(3, 5), (5, 3)] {
            for scale in [1.0, 1e-30, 1e30] {
                let values = [4.0 * scale, 2.0 * scale, 1.0 * scale];
                let matrix = turned(rows, cols, &values, 0.3);
                let found = leading_subspace(&matrix, 1).unwrap();
                for (got, want) in found.values.iter().zip(singular_values(&matrix).unwrap()) {
                    assert!((got - want).abs() <= 1e-7 * values[0], "{got} for {want}");
                }
                let (sin, cos) = 0.3f64.sin_cos();
                let vectors = found.vectors.data();
                let sign = vectors[0].signum();
                for (got, want) in vectors.iter().zip([cos, sin, 0.0]) {
                    assert!((sign * got - want).abs() < 1e-9, "{vectors:?}");
                }
            }
        }
    }

    #[test]
    fn similarity_is_the_mean_squared_cosine_whatever_the_basis() {
        let columns = |columns: &[[f64; 4]]| {
            let data = columns.iter().flatten().copied().collect();
            Matrix::new(columns.len(), 4, data).unwrap().transposed()
        };
        let (sin, cos) = 0.7f64.sin_cos();
        let [e0, e1, e2, e3] = [
            [1.0, 0.0, 0.0, 0.0],
            [0.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 1.0, 0.0],
            [0.0, 0.0, 0.0, 1.0],
        ];
        let plane = columns(&[e0, e1]);
        // Another basis of the same plane: turned, mirrored and in another order.
        let same = columns(&[[-sin, cos, 0.0, 0.0], [-cos, -sin, 0.0, 0.0]]);
        let tilted = columns(&[e0, [0.0, cos, sin, 0.0]]);
        let near = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} for {want}");
        near(subspace_similarity(&plane, &plane), 1.0);
        near(subspace_similarity(&plane, &same), 1.0);
        near(subspace_similarity(&plane, &columns(&[e2, e3])), 0.0);
        near(subspace_similarity(&plane, &columns(&[e1, e2])), 0.5);
        near(subspace_similarity(&plane, &tilted), (1.0 + cos * cos) / 2.0);
        near(subspace_similarity(&same, &tilted), (1.0 + cos * cos) / 2.0);
    }

    #[test]
    #[should_panic(expected = "different spaces")]
    fn subspaces_of_different_spaces_are_not_compared() {
        let of = |rows: usize| Matrix::new(rows, 1, vec![1.0; rows]).unwrap();
        subspace_similarity(&of(2), &of(3));
    }
}
