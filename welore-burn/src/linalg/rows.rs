//! Products of rows of f32, for layers.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// `left · rightᵀ`, of rows of `columns` entries each, row-major, on the calling thread.
///
/// # Panics
///
/// If entries do not fill rows, or there is not a place in `out` for each product.
pub(crate) fn multiply_rows(left: &[f32], right: &[f32], columns: usize, out: &mut [f32]) {
    let (rows, others) = (left.len() / columns, right.len() / columns);
    matmul(
        MatMut::from_row_major_slice_mut(out, rows, others),
        Accum::Replace,
        MatRef::from_row_major_slice(left, rows, columns),
        MatRef::from_row_major_slice(right, others, columns).transpose(),
        1.0f32,
        Par::Seq,
    );
}
