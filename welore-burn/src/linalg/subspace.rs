use faer::{MatRef, Side};

use super::svd::{LinalgError, Matrix};

/// The `rank` leading left singular vectors of a matrix, as the columns of a
/// `[rows, rank]` matrix in row-major order.
///
/// They are the leading eigenvectors of the Gram matrix `A Aᵀ`, which squares the condition
/// number: vectors of singular values below 1e-8 of the largest are not to be trusted. Meant
/// for projecting onto the leading subspace, where those do not matter, and much faster than a
/// decomposition of `A` when it is wide.
///
/// # Errors
///
/// [`LinalgError::Rank`] for a rank that is impossible, [`LinalgError::NoConvergence`].
pub fn leading_left_vectors(matrix: &Matrix, rank: usize) -> Result<Vec<f64>, LinalgError> {
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
    let vectors = eigen.U();
    Ok((0..rows).flat_map(|row| (0..rank).map(move |col| vectors[(row, rows - 1 - col)])).collect())
}

#[cfg(test)]
mod tests {
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
        let basis = Matrix::new(rows, 2, vectors.clone()).unwrap();
        let transposed =
            Matrix::new(2, rows, (0..2 * rows).map(|k| vectors[k % rows * 2 + k / rows]).collect());
        let transposed = transposed.unwrap();
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
    }
}
