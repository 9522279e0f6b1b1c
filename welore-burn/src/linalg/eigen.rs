//! The leading eigenpairs of a symmetric matrix by way of its tridiagonal form.
//!
//! That form yields all eigenvalues. Transforming its eigenvectors back costs as much as finding
//! them, so it is done only for the wanted ones.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{
    ComputeEigenvectors, self_adjoint_evd_scratch, tridiag, tridiagonal_self_adjoint_evd,
};
use faer::linalg::householder::apply_block_householder_sequence_on_the_left_in_place_with_conj as reflect;
use faer::linalg::qr::no_pivoting::factor::recommended_block_size;
use faer::{Col, Conj, Mat, get_global_parallelism};

use super::matrix::LinalgError;

/// Eigenpairs of a symmetric matrix.
pub(super) struct Eigenpairs {
    /// In falling order.
    pub values: Vec<f64>,
    /// One orthonormal eigenvector per column.
    pub vectors: Mat<f64>,
}

/// The `count` largest eigenvalues and their vectors, of the matrix whose lower half is given.
pub(super) fn largest_pairs(lower: &Mat<f64>, count: usize) -> Result<Eigenpairs, LinalgError> {
    let (side, par) = (lower.nrows(), get_global_parallelism());
    let params = Default::default();
    let needed = self_adjoint_evd_scratch::<f64>(side, ComputeEigenvectors::Yes, par, params);
    let mut memory = MemBuffer::new(needed);
    let stack = MemStack::new(&mut memory);

    let mut form = Mat::zeros(side, side);
    form.copy_from_triangular_lower(lower);
    let block = recommended_block_size::<f64>(side, side);
    let mut factors = Mat::zeros(block, side - 1);
    tridiag::tridiag_in_place(form.as_mut(), factors.as_mut(), par, stack, Default::default());

    let diagonal = Col::from_fn(side, |i| form[(i, i)]);
    let below = Col::from_fn(side, |i| if i + 1 < side { form[(i + 1, i)] } else { 0.0 });
    let (mut rising, mut all) = (Col::zeros(side), Mat::zeros(side, side));
    tridiagonal_self_adjoint_evd(
        diagonal.as_diagonal(),
        below.as_diagonal(),
        rising.as_diagonal_mut(),
        Some(all.as_mut()),
        par,
        stack,
        params,
    )
    .map_err(|_| LinalgError::NoConvergence)?;

    let mut vectors = all.subcols(side - count, count).reverse_cols().to_owned();
    // The tridiagonal form is in the basis of these reflections, which leave out the first row.
    let basis = form.submatrix(1, 0, side - 1, side - 1);
    let rows = vectors.subrows_mut(1, side - 1);
    reflect(basis, factors.as_ref(), Conj::No, rows, par, stack);
    let values = rising.iter().rev().take(count).copied().collect();
    Ok(Eigenpairs { values, vectors })
}

#[cfg(test)]
mod tests {
    use faer::Side;

    use super::*;

    #[test]
    fn pairs_are_the_largest_of_the_whole_decomposition() {
        for (side, count) in [(2, 1), (2, 2), (65, 7), (150, 150), (200, 31)] {
            let mut state = 1u64;
            let matrix = Mat::from_fn(side, side, |_, _| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
            });
            let gram = &matrix * matrix.transpose();
            let Eigenpairs { values, vectors } = largest_pairs(&gram, count).unwrap();
            let all = gram.self_adjoint_eigenvalues(Side::Lower).unwrap();
            for (value, expected) in values.iter().zip(all.iter().rev()) {
                assert!((value - expected).abs() < 1e-12 * all[side - 1], "{side}: {value}");
            }
            assert_eq!(values.len(), count);
            let gaps =
                &gram * &vectors - Mat::from_fn(side, count, |i, j| vectors[(i, j)] * values[j]);
            assert!(gaps.norm_max() < 1e-12 * all[side - 1], "{side} at {count}");
            let products = vectors.transpose() * &vectors;
            let identity = Mat::<f64>::identity(count, count);
            assert!((products - identity).norm_max() < 1e-12, "{side} at {count}");
        }
    }
}
