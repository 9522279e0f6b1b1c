//! Products with the transpose of what blocks hold.
//!
//! The matrix is read 256 columns at a time, from its first row to its last, and each run of entries
//! is added to the products of its columns, times what each row of the input has for that row of the
//! matrix. For many rows of the input, panels of columns are unpacked, transposed, and multiplied as
//! dense ones.

use std::iter::once;

use rayon::prelude::*;

use super::super::tensor_type::TensorType;
use super::Product;
#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::machine::{FEW, Machine, Portable, RUN};
use super::sinks::Added;
use super::unpack::{read, unpack};
use crate::linalg::{multiply_rows, transpose};

/// Rows of the matrix whose products are added up in f32 before the sum goes on in f64.
const IN_SINGLE: usize = 256;

impl TensorType {
    /// The products of rows of numbers with the transpose of a matrix of rows in blocks:
    /// `input · blocks`, f32, with sums over runs of 256 rows in f64. Runs of columns are spread over
    /// the threads of the rayon pool that this is called in; results do not depend on their number.
    ///
    /// # Shapes
    ///
    /// - blocks: `[rows, columns]`
    /// - input: `[n, rows]`
    /// - output: `[n, columns]`
    ///
    /// # Panics
    ///
    /// If blocks or numbers do not fill rows.
    pub(crate) fn product_turned(self, blocks: &[u8], columns: usize, input: &[f32]) -> Vec<f32> {
        let product = Product::turned(self, blocks, columns, input);
        #[cfg(target_arch = "x86_64")]
        if let Some(machine) = avx2::Avx2::detected() {
            return product.compute_turned(machine);
        }
        product.compute_turned(Portable)
    }
}

impl<'a> Product<'a> {
    /// A product with the transpose: the input has rows as long as the matrix has rows.
    fn turned(dtype: TensorType, blocks: &'a [u8], columns: usize, input: &'a [f32]) -> Self {
        let matrix = Self::new(dtype, blocks, columns, &[]);
        let count = input.len().checked_div(matrix.rows).unwrap_or(0);
        assert_eq!(count * matrix.rows, input.len(), "there are whole rows of the input");
        Self { input, count, ..matrix }
    }

    fn compute_turned<M: Machine>(&self, machine: M) -> Vec<f32> {
        if self.count == 0 {
            return Vec::new();
        }
        // The products of a run of columns are side by side, so that threads have places of their
        // own.
        let mut out = vec![0.0; self.columns * self.count];
        let runs = out.par_chunks_mut(RUN * self.count).enumerate();
        match self.count <= FEW {
            true => runs.for_each(|(run, out)| machine.few_columns(self, run * RUN, out)),
            false => runs.for_each_init(Vec::new, |panel, (run, out)| {
                self.many_columns(machine, run * RUN, panel, out);
            }),
        }
        match self.count {
            1 => out,
            _ => transpose(&out, self.columns, self.count),
        }
    }

    /// The blocks of `len` columns from number `first` on, in each row.
    fn part(&self, first: usize, len: usize) -> impl Iterator<Item = &[u8]> {
        let bytes = |columns: usize| columns / self.dtype.block_len() * self.dtype.block_bytes();
        let (first, len) = (bytes(first), bytes(len));
        self.blocks.chunks_exact(self.stride).map(move |row| &row[first..first + len])
    }

    fn many_columns<M: Machine>(
        &self,
        machine: M,
        first: usize,
        panel: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let len = out.len() / self.count;
        panel.resize(self.rows * len, 0.0);
        for (bytes, entries) in self.part(first, len).zip(panel.chunks_exact_mut(len)) {
            machine.unpack(self.dtype, bytes, entries);
        }
        multiply_rows(&transpose(panel, self.rows, len), self.input, self.rows, out);
    }
}

/// The products of all rows of the input, at most [`FEW`], with the columns from number `first` on,
/// as many as `out` has room for: those of one column side by side.
#[inline(always)]
pub(super) fn few_columns<M: Machine>(
    machine: M,
    product: &Product<'_>,
    first: usize,
    out: &mut [f32],
) {
    let (count, rows) = (product.count, product.rows);
    let len = out.len() / count;
    let (mut sums, mut totals) = ([[0.0f32; RUN]; FEW], [[0.0f64; RUN]; FEW]);
    let mut unpacked = [0.0f32; RUN];
    let at_once = count == 1 && !product.dtype.is_float();
    for (row, bytes) in product.part(first, len).enumerate() {
        if at_once {
            let (sums, factor) = (sums[0].as_chunks_mut().0, product.input[row]);
            read(machine, product.dtype, once(bytes), &mut Added { sums, factor });
        } else {
            unpack(machine, product.dtype, bytes, &mut unpacked[..len]);
            for (n, sums) in sums.iter_mut().take(count).enumerate() {
                let share = product.input[n * rows + row];
                sums.iter_mut().zip(&unpacked).for_each(|(sum, entry)| *sum += share * entry);
            }
        }
        if (row + 1).is_multiple_of(IN_SINGLE) || row + 1 == rows {
            for (sums, totals) in sums.iter_mut().zip(&mut totals).take(count) {
                for (sum, total) in sums.iter_mut().zip(totals) {
                    *total += f64::from(*sum);
                    *sum = 0.0;
                }
            }
        }
    }
    for (column, out) in out.chunks_exact_mut(count).enumerate() {
        out.iter_mut().zip(&totals).for_each(|(out, totals)| *out = totals[column] as f32);
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// The same products, from the unpacked matrix.
    fn exact(dense: &[f32], columns: usize, input: &[f32]) -> Vec<(f64, f64)> {
        let rows = dense.len() / columns;
        let pairs = |n: usize, column: usize| {
            (0..rows).map(move |row| {
                f64::from(input[n * rows + row]) * f64::from(dense[row * columns + column])
            })
        };
        let product = |at: usize| {
            let pairs = || pairs(at / columns, at % columns);
            (pairs().sum(), pairs().map(f64::abs).sum())
        };
        (0..input.len() / rows * columns).map(product).collect()
    }

    #[test]
    fn every_machine_multiplies_by_the_transpose() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for (dtype, columns) in
            [(TensorType::Q8_0, 288), (TensorType::Q3K, 512), (TensorType::F16, 261)]
        {
            let rows = IN_SINGLE + 5;
            let entries: Vec<f32> =
                (0..rows * columns).map(|_| rng.random_range(-1.0..1.0)).collect();
            let blocks = match dtype {
                // Any bytes are blocks; their scales come from one that was rounded.
                TensorType::Q3K => {
                    let row = dtype.quantize(&entries[..columns], columns, None).unwrap();
                    row.repeat(rows)
                }
                _ => dtype.quantize(&entries, columns, None).unwrap(),
            };
            let dense = dtype.dequantize_rows(&blocks, columns).unwrap();
            for count in [1, 3, FEW, FEW + 1] {
                let input: Vec<f32> =
                    (0..count * rows).map(|_| rng.random_range(-1.0..1.0)).collect();
                let product = Product::turned(dtype, &blocks, columns, &input);
                let mut results = vec![product.compute_turned(Portable)];
                #[cfg(target_arch = "x86_64")]
                results
                    .extend(avx2::Avx2::detected().map(|machine| product.compute_turned(machine)));
                results.push(dtype.product_turned(&blocks, columns, &input));
                let exact = exact(&dense, columns, &input);
                for found in results {
                    assert_eq!(found.len(), exact.len());
                    for (found, (exact, size)) in found.iter().zip(&exact) {
                        let gap = (f64::from(*found) - exact).abs();
                        assert!(gap <= 1e-5 * size, "{dtype:?}: {found}, not {exact}");
                    }
                }
            }
        }
        assert!(TensorType::Q8_0.product_turned(&[0; 34], 32, &[]).is_empty());
    }
}
