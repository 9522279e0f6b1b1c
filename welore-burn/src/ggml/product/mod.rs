//! Products of rows of numbers with a matrix that stays in its blocks.
//!
//! For one row, such as that of a token that is generated, entries are multiplied as they are read from
//! their blocks. For few rows, a row of the matrix is unpacked 256 entries at a time, in cache, and
//! forgotten. In both the blocks are read once, and nothing else is. For many rows, panels of the
//! matrix are unpacked and multiplied as dense ones, so what is unpacked at once is bounded. `unpack`
//! says what is in a block, `sinks` what is done with it, `machine` in which steps.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod machine;
mod sinks;
mod turned;
mod unpack;

use rayon::prelude::*;

use self::machine::{FEW, Machine, Parts, Portable};
use super::tensor_type::TensorType;
use crate::linalg::{multiply_rows, transpose};

/// Rows of the matrix that are unpacked together for many rows of the input.
const PANEL: usize = 64;

/// Entries of the matrix below which a thread does not pay.
const LEAST_WORK: usize = 1 << 15;

impl TensorType {
    /// The products of rows of `columns` numbers with a matrix of rows in blocks: `input · blocksᵀ`,
    /// f32. A single row of numbers is rounded to 16 bits for each 32 of them, unless the matrix is of
    /// floats. Rows of the matrix are spread over the threads of the rayon pool that this is called in;
    /// results do not depend on their number.
    ///
    /// # Shapes
    ///
    /// - blocks: `[rows, columns]`
    /// - input: `[n, columns]`
    /// - output: `[n, rows]`
    ///
    /// # Panics
    ///
    /// If blocks or numbers do not fill rows.
    pub(crate) fn product(self, blocks: &[u8], columns: usize, input: &[f32]) -> Vec<f32> {
        let product = Product::new(self, blocks, columns, input);
        #[cfg(target_arch = "x86_64")]
        if let Some(machine) = avx2::Avx2::detected() {
            return product.compute(machine);
        }
        product.compute(Portable)
    }

    /// The entries of rows in blocks, the numbers that llama.cpp computes with; row-major. Spread
    /// over threads as in [`product`](TensorType::product). Does not ask whether they are finite.
    ///
    /// # Panics
    ///
    /// If the blocks do not fill rows.
    pub(crate) fn unpack_rows(self, blocks: &[u8], columns: usize) -> Vec<f32> {
        let product = Product::new(self, blocks, columns, &[]);
        #[cfg(target_arch = "x86_64")]
        if let Some(machine) = avx2::Avx2::detected() {
            return product.unpacked(machine);
        }
        product.unpacked(Portable)
    }

    /// The first block with a scale that is infinite or not a number; for floats the first such
    /// number. All other blocks have finite entries.
    pub(crate) fn not_finite(self, blocks: &[u8]) -> Option<usize> {
        let size = self.block_bytes();
        let is_infinite = |block: &[u8], at: usize| match self {
            Self::F32 => block[3] & 127 == 127 && block[2] & 128 == 128,
            Self::Bf16 => block[1] & 127 == 127 && block[0] & 128 == 128,
            _ => block[at + 1] & 124 == 124,
        };
        let scales = self.scales();
        let mut blocks = blocks.chunks_exact(size);
        blocks.position(|block| scales.iter().any(|at| is_infinite(block, *at)))
    }

    /// Where a block has its f16.
    fn scales(self) -> &'static [usize] {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => &[0],
            Self::Q8_0 | Self::Q5_0 | Self::Q4_0 | Self::Iq4Nl | Self::Iq4Xs => &[0],
            Self::Q5K | Self::Q5_1 | Self::Q4K | Self::Q4_1 => &[0, 2],
            Self::Q6K => &[208],
            Self::Q3K => &[108],
            Self::Q2K => &[80, 82],
        }
    }
}

/// What is multiplied.
struct Product<'a> {
    dtype: TensorType,
    blocks: &'a [u8],
    columns: usize,
    /// Bytes of a row of the matrix.
    stride: usize,
    /// Rows of the matrix.
    rows: usize,
    input: &'a [f32],
    /// Rows of the input.
    count: usize,
}

impl<'a> Product<'a> {
    fn new(dtype: TensorType, blocks: &'a [u8], columns: usize, input: &'a [f32]) -> Self {
        let stride = dtype.row_bytes(columns).filter(|stride| *stride > 0);
        let stride = stride.expect("rows are filled by blocks");
        assert!(blocks.len().is_multiple_of(stride), "there are whole rows of the matrix");
        assert!(input.len().is_multiple_of(columns), "there are whole rows of the input");
        let (rows, count) = (blocks.len() / stride, input.len() / columns);
        Self { dtype, blocks, columns, stride, rows, input, count }
    }

    fn compute<M: Machine>(&self, machine: M) -> Vec<f32> {
        if self.count == 0 {
            return Vec::new();
        }
        // The products of a row of the matrix are side by side, so that threads have places of
        // their own.
        let mut out = vec![0.0; self.rows * self.count];
        match self.count {
            1 if !self.dtype.is_float() => self.one(machine, &mut out),
            ..=FEW => self.few(machine, &mut out),
            _ => self.many(machine, &mut out),
        }
        match self.count {
            1 => out,
            count => transpose(&out, self.rows, count),
        }
    }

    fn one<M: Machine>(&self, machine: M, out: &mut [f32]) {
        let (input, rows_at_once) = (Parts::of(self.input), (LEAST_WORK / self.columns).max(1));
        let parts = out.par_chunks_mut(rows_at_once).enumerate();
        parts.for_each(|(part, out)| machine.one_row(self, &input, part * rows_at_once, out));
    }

    fn few<M: Machine>(&self, machine: M, out: &mut [f32]) {
        let rows_at_once = (LEAST_WORK / self.columns).max(1);
        let parts = out.par_chunks_mut(rows_at_once * self.count).enumerate();
        parts.for_each(|(part, out)| machine.few_rows(self, part * rows_at_once, out));
    }

    fn many<M: Machine>(&self, machine: M, out: &mut [f32]) {
        let panels = out.par_chunks_mut(PANEL * self.count).enumerate();
        panels.for_each_init(Vec::new, |panel: &mut Vec<f32>, (index, out)| {
            let rows = out.len() / self.count;
            panel.resize(rows * self.columns, 0.0);
            let blocks = &self.blocks[index * PANEL * self.stride..][..rows * self.stride];
            machine.unpack(self.dtype, blocks, panel);
            multiply_rows(panel, self.input, self.columns, out);
        });
    }

    fn unpacked<M: Machine>(&self, machine: M) -> Vec<f32> {
        let mut entries = vec![0.0; self.rows * self.columns];
        let rows_at_once = (LEAST_WORK / self.columns).max(1);
        let parts = entries.par_chunks_mut(rows_at_once * self.columns);
        let blocks = self.blocks.par_chunks(rows_at_once * self.stride);
        parts.zip(blocks).for_each(|(part, blocks)| machine.unpack(self.dtype, blocks, part));
        entries
    }
}

#[cfg(test)]
mod tests {
    use half::f16;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::named::Named;

    /// Rows that fill the blocks of a type, with a run of 256 columns and a part of one.
    fn columns_of(dtype: TensorType) -> usize {
        match dtype.block_len() {
            1 => 261,
            32 => 288,
            _ => 512,
        }
    }

    /// Any bytes, with scales of a sensible size.
    fn any_blocks(dtype: TensorType, rows: usize, rng: &mut ChaCha8Rng) -> Vec<u8> {
        let count = rows * columns_of(dtype) / dtype.block_len();
        let size = dtype.block_bytes();
        let mut blocks: Vec<u8> = (0..count * size).map(|_| rng.random()).collect();
        for block in blocks.chunks_exact_mut(size) {
            let number: f32 = rng.random_range(-0.1..0.1);
            match dtype {
                TensorType::F32 => block.copy_from_slice(&number.to_le_bytes()),
                TensorType::Bf16 => block.copy_from_slice(&number.to_le_bytes()[2..]),
                _ => dtype.scales().iter().for_each(|at| {
                    let scale = f16::from_f32(rng.random_range(-0.1..0.1));
                    block[*at..*at + 2].copy_from_slice(&scale.to_le_bytes());
                }),
            }
        }
        blocks
    }

    /// What one machine computes, and unpacks.
    fn computed<M: Machine>(machine: M, product: &Product<'_>) -> (Vec<f32>, Vec<f32>) {
        (product.compute(machine), product.unpacked(machine))
    }

    #[test]
    fn every_machine_unpacks_the_same_numbers_and_multiplies_by_them() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for dtype in TensorType::all().iter().copied() {
            let (rows, columns) = (PANEL + 6, columns_of(dtype));
            let blocks = any_blocks(dtype, rows, &mut rng);
            let dense = dtype.dequantize_rows(&blocks, columns).unwrap();
            for count in [1, 3, FEW, FEW + 1] {
                let input: Vec<f32> =
                    (0..count * columns).map(|_| rng.random_range(-1.0..1.0)).collect();
                let product = Product::new(dtype, &blocks, columns, &input);
                let mut results = vec![computed(Portable, &product)];
                #[cfg(target_arch = "x86_64")]
                results.extend(avx2::Avx2::detected().map(|machine| computed(machine, &product)));
                for (products, unpacked) in results {
                    assert_eq!(unpacked, dense, "{dtype:?}");
                    check(dtype, &products, &dense, &input, [rows, columns]);
                }
            }
        }
    }

    fn check(
        dtype: TensorType,
        products: &[f32],
        dense: &[f32],
        input: &[f32],
        [rows, columns]: [usize; 2],
    ) {
        assert_eq!(products.len() * columns, input.len() * rows);
        for (at, product) in products.iter().enumerate() {
            let weights = || dense[at % rows * columns..][..columns].iter().map(|w| f64::from(*w));
            let inputs = || input[at / rows * columns..][..columns].iter().map(|x| f64::from(*x));
            let pairs = || weights().zip(inputs()).map(|(w, x)| w * x);
            let (exact, size) = (pairs().sum::<f64>(), pairs().map(f64::abs).sum::<f64>());
            let gap = (f64::from(*product) - exact).abs();
            // A single row is rounded to whole numbers below 2^15, none of which loses more than a half.
            let (most, all) = (inputs().fold(0.0, |most: f64, x| most.max(x.abs())), weights());
            let rounded = match input.len() == columns && !dtype.is_float() {
                true => most / f64::from(2 * i32::from(i16::MAX)) * all.map(f64::abs).sum::<f64>(),
                false => 0.0,
            };
            assert!(gap <= 1e-5 * size + rounded, "{dtype:?}: {product} at {at}, not {exact}");
        }
    }

    /// Rounding to whole numbers must not lose what is wrong with an input.
    #[test]
    fn inputs_that_are_not_finite_make_products_so_and_tiny_ones_do_not() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for dtype in [TensorType::Q8_0, TensorType::Q4_1, TensorType::Q3K] {
            let columns = columns_of(dtype);
            let blocks = any_blocks(dtype, 3, &mut rng);
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut input = vec![0.5; columns];
                input[7] = wrong;
                let products = dtype.product(&blocks, columns, &input);
                assert!(products.iter().all(|product| !product.is_finite()), "{dtype:?}, {wrong}");
            }
            for tiny in [0.0, 1e-45, f32::MIN_POSITIVE] {
                let products = dtype.product(&blocks, columns, &vec![tiny; columns]);
                assert!(products.iter().all(|product| product.abs() < 1e-30), "{dtype:?}, {tiny}");
            }
        }
    }

    #[test]
    fn the_library_chooses_a_machine_and_agrees() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let (dtype, columns) = (TensorType::Q4K, 512);
        let blocks = any_blocks(dtype, 5, &mut rng);
        let input: Vec<f32> = (0..columns).map(|_| rng.random_range(-1.0..1.0)).collect();
        let dense = dtype.unpack_rows(&blocks, columns);
        assert_eq!(dense, dtype.dequantize_rows(&blocks, columns).unwrap());
        check(dtype, &dtype.product(&blocks, columns, &input), &dense, &input, [5, columns]);
        assert!(dtype.product(&blocks, columns, &[]).is_empty());
        assert!(dtype.product(&[], columns, &input).is_empty());
    }

    #[test]
    fn scales_that_are_not_finite_are_found_wherever_a_block_has_them() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for dtype in TensorType::all().iter().copied() {
            let blocks = any_blocks(dtype, 2, &mut rng);
            assert_eq!(dtype.not_finite(&blocks), None, "{dtype:?}");
            for at in dtype.scales() {
                for wrong in [f32::INFINITY, f32::NAN, f32::NEG_INFINITY] {
                    let mut blocks = blocks.clone();
                    let place = &mut blocks[dtype.block_bytes() + at..];
                    match dtype {
                        TensorType::F32 => place[..4].copy_from_slice(&wrong.to_le_bytes()),
                        TensorType::Bf16 => place[..2].copy_from_slice(&wrong.to_le_bytes()[2..]),
                        _ => place[..2].copy_from_slice(&f16::from_f32(wrong).to_le_bytes()),
                    }
                    assert_eq!(dtype.not_finite(&blocks), Some(1), "{dtype:?}");
                }
            }
        }
    }
}
