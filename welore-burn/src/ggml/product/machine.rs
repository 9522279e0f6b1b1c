//! What unpacking and multiplying are made of, in plain Rust; processors have faster versions.

use std::array::from_fn;

use half::f16;

use super::super::tensor_type::TensorType;
use super::Product;
use super::turned::few_columns;
use super::unpack::unpack;

/// The levels of IQ4_NL and IQ4_XS, by code (`kvalues_iq4nl`).
pub(super) const UNEVEN: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Entries that a product has in memory at once: whole blocks of every type.
pub(super) const RUN: usize = 256;

/// Steps on 16 bytes at a time. All machines give the same results, except that
/// [`dot`](Machine::dot) may round differently.
pub(super) trait Machine: Copy + Send + Sync {
    /// A number from its f16.
    #[inline(always)]
    fn half(self, bytes: [u8; 2]) -> f32 {
        f16::from_le_bytes(bytes).to_f32()
    }

    /// Eight numbers from their f16.
    #[inline(always)]
    fn halves(self, bytes: &[u8; 16]) -> [f32; 8] {
        from_fn(|i| self.half([bytes[2 * i], bytes[2 * i + 1]]))
    }

    /// The bits from number `shift` on that `mask` has, which are none beyond the byte.
    #[inline(always)]
    fn bits(self, bytes: &[u8; 16], shift: u8, mask: u8) -> [u8; 16] {
        from_fn(|i| (bytes[i] >> shift) & mask)
    }

    /// `low | high << shift`, where no bit leaves its byte.
    #[inline(always)]
    fn joined(self, low: [u8; 16], high: [u8; 16], shift: u8) -> [u8; 16] {
        from_fn(|i| low[i] | high[i] << shift)
    }

    /// `codes - less`, for differences that fit.
    #[inline(always)]
    fn minus(self, codes: [u8; 16], less: i8) -> [i8; 16] {
        from_fn(|i| (codes[i] as i8).wrapping_sub(less))
    }

    /// The uneven levels of codes below 16.
    #[inline(always)]
    fn levels(self, codes: [u8; 16]) -> [i8; 16] {
        from_fn(|i| UNEVEN[usize::from(codes[i] & 15)])
    }

    /// `scale · numbers`.
    #[inline(always)]
    fn scaled(self, numbers: [i8; 16], scale: f32, out: &mut [f32; 16]) {
        for (out, number) in out.iter_mut().zip(numbers) {
            *out = scale * f32::from(number);
        }
    }

    /// `scale · numbers + shift`, rounded twice, as llama.cpp does.
    #[inline(always)]
    fn shifted(self, numbers: [i8; 16], scale: f32, shift: f32, out: &mut [f32; 16]) {
        for (out, number) in out.iter_mut().zip(numbers) {
            *out = scale * f32::from(number) + shift;
        }
    }

    /// The sum of the products of as many numbers on both sides.
    #[inline(always)]
    fn dot(self, left: &[f32], right: &[f32]) -> f32 {
        // Several sums side by side are faster, and lose less.
        let mut sums = [0.0f32; 16];
        let ((left, left_rest), (right, right_rest)) =
            (left.as_chunks::<16>(), right.as_chunks::<16>());
        for (left, right) in left.iter().zip(right) {
            for ((sum, left), right) in sums.iter_mut().zip(left).zip(right) {
                *sum += left * right;
            }
        }
        sums.iter().sum::<f32>() + rest(left_rest, right_rest)
    }

    /// [`few_rows`], compiled for this machine.
    fn few_rows(self, product: &Product<'_>, first: usize, out: &mut [f32]);

    /// [`few_columns`], compiled for this machine.
    fn few_columns(self, product: &Product<'_>, first: usize, out: &mut [f32]);

    /// [`unpack`], compiled for this machine.
    fn unpack(self, dtype: TensorType, bytes: &[u8], entries: &mut [f32]);
}

/// The sum of the products of what does not fill a register.
#[inline(always)]
pub(super) fn rest(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

/// Any processor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Machine for Portable {
    fn few_rows(self, product: &Product<'_>, first: usize, out: &mut [f32]) {
        few_rows(self, product, first, out);
    }

    fn few_columns(self, product: &Product<'_>, first: usize, out: &mut [f32]) {
        few_columns(self, product, first, out);
    }

    fn unpack(self, dtype: TensorType, bytes: &[u8], entries: &mut [f32]) {
        unpack(self, dtype, bytes, entries);
    }
}

/// Most rows of an input for which each row of the matrix is unpacked once and forgotten.
pub(super) const FEW: usize = 8;

/// The products of all rows of the input, at most [`FEW`], with the rows of the matrix from number
/// `first` on, as many as `out` has room for: those of one row of the matrix side by side.
#[inline(always)]
pub(super) fn few_rows<M: Machine>(
    machine: M,
    product: &Product<'_>,
    first: usize,
    out: &mut [f32],
) {
    let (dtype, stride) = (product.dtype, product.stride);
    let mut unpacked = [0.0f32; RUN];
    let run_bytes = RUN / dtype.block_len() * dtype.block_bytes();
    let rows = product.blocks[first * stride..].chunks_exact(stride);
    for (row, out) in rows.zip(out.chunks_exact_mut(product.count)) {
        let mut sums = [0.0f64; FEW];
        for (run, bytes) in row.chunks(run_bytes).enumerate() {
            let start = run * RUN;
            let len = RUN.min(product.columns - start);
            let entries = &mut unpacked[..len];
            unpack(machine, dtype, bytes, entries);
            let inputs = product.input.chunks_exact(product.columns);
            for (sum, input) in sums.iter_mut().zip(inputs) {
                *sum += f64::from(machine.dot(entries, &input[start..start + len]));
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum as f32;
        }
    }
}
