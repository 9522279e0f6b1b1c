//! Products of matrices of f32 on one thread, for layers.

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

/// A matrix of f32 in memory, row by row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a>(MatRef<'a, f32>);

impl<'a> Rows<'a> {
    /// Rows of `width` numbers, `stride` from one to the next.
    ///
    /// # Panics
    ///
    /// If numbers are missing.
    pub fn new(numbers: &'a [f32], [count, width]: [usize; 2], stride: usize) -> Self {
        Self(MatRef::from_row_major_slice_with_stride(numbers, count, width, stride))
    }

    /// The transpose of the matrix.
    pub fn transposed(self) -> Self {
        Self(self.0.transpose())
    }
}

/// What becomes of the numbers where a product is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// The product takes their place.
    Over,
    /// The product is added to them.
    Added,
}

/// `left · right` in rows of `out`, `stride` from one to the next, on the calling thread.
///
/// # Panics
///
/// If shapes do not fit together, or there is not a place in `out` for each product.
pub(crate) fn multiply_into(
    out: &mut [f32],
    stride: usize,
    written: Written,
    left: Rows<'_>,
    right: Rows<'_>,
) {
    let (rows, columns) = (left.0.nrows(), right.0.ncols());
    // By columns and turned: faer 0.24.4 swaps the strides of rows that are apart.
    let out = MatMut::from_column_major_slice_with_stride_mut(out, columns, rows, stride);
    let accum = match written {
        Written::Over => Accum::Replace,
        Written::Added => Accum::Add,
    };
    matmul(out.transpose_mut(), accum, left.0, right.0, 1.0f32, Par::Seq);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, so that sums are exact.
    fn numbers(len: usize, step: usize) -> Vec<f32> {
        (0..len).map(|i| (i * step % 13) as f32 - 6.0).collect()
    }

    #[test]
    fn products_of_parts_of_matrices_are_written_there_and_nowhere_else() {
        for [rows, columns, inner] in [[5, 64, 5], [33, 64, 33], [1, 8, 70], [44, 7, 83]] {
            let (left, right) = (numbers(rows * (inner + 3), 7), numbers(columns * (inner + 5), 5));
            let left_rows = Rows::new(&left, [rows, inner], inner + 3);
            let right_rows = Rows::new(&right, [columns, inner], inner + 5).transposed();
            let stride = 2 * columns + 1;
            let mut out = vec![77.0; rows * stride];
            let len = (rows - 1) * stride + columns;
            multiply_into(&mut out[..len], stride, Written::Over, left_rows, right_rows);
            multiply_into(&mut out[..len], stride, Written::Added, left_rows, right_rows);
            for (at, number) in out.iter().enumerate() {
                let (row, column) = (at / stride, at % stride);
                let term = |i| left[row * (inner + 3) + i] * right[column * (inner + 5) + i];
                let expected = match column < columns {
                    true => 2.0 * (0..inner).map(term).sum::<f32>(),
                    false => 77.0,
                };
                assert_eq!(*number, expected, "{rows} x {columns} x {inner}, {row}, {column}");
            }
        }
    }
}
