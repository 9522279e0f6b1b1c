//! What unpacking and multiplying are made of, in plain Rust; processors have faster versions.

use std::array::from_fn;

use half::f16;

use super::super::tensor_type::TensorType;
use super::Product;
use super::sinks::Dot;
use super::turned::few_columns;
use super::unpack::{read, unpack};

/// The levels of IQ4_NL and IQ4_XS, by code (`kvalues_iq4nl`).
pub(super) const UNEVEN: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Entries that a product has in memory at once: whole blocks of every type.
pub(super) const RUN: usize = 256;

/// Steps on 16 bytes at a time. All machines give the same results, except that sums may be rounded
/// differently.
pub(super) trait Machine: Copy + Send + Sync {
    /// Sixteen bytes: codes, or numbers with a sign.
    type Bytes: Copy;

    /// Sums side by side, f32.
    type Sums: Copy;

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

    /// Sixteen bytes of a block.
    fn load(self, bytes: &[u8; 16]) -> Self::Bytes;

    /// The bits from number `shift` on that `mask` has, which are none beyond the byte.
    fn bits(self, bytes: Self::Bytes, shift: u8, mask: u8) -> Self::Bytes;

    /// Sixteen bits as bytes of 0 and 1, the lowest bit of the first byte first.
    fn spread(self, bits: [u8; 2]) -> Self::Bytes;

    /// `low | high << shift`, where no bit leaves its byte.
    fn joined(self, low: Self::Bytes, high: Self::Bytes, shift: u8) -> Self::Bytes;

    /// `codes - less`, for differences that fit.
    fn minus(self, codes: Self::Bytes, less: i8) -> Self::Bytes;

    /// The uneven levels of codes below 16.
    fn levels(self, codes: Self::Bytes) -> Self::Bytes;

    /// `out = scale · numbers`.
    fn scaled(self, numbers: Self::Bytes, scale: f32, out: &mut [f32; 16]);

    /// `out = scale · numbers + shift`, rounded twice, as llama.cpp does.
    fn shifted(self, numbers: Self::Bytes, scale: f32, shift: f32, out: &mut [f32; 16]);

    /// `out = out + scale · numbers`.
    fn add_scaled(self, numbers: Self::Bytes, scale: f32, out: &mut [f32; 16]);

    /// `out = out + scale · numbers + shift`.
    fn add_shifted(self, numbers: Self::Bytes, scale: f32, shift: f32, out: &mut [f32; 16]);

    /// No sums yet.
    fn no_sums(self) -> Self::Sums;

    /// The sums, and `scale · (numbers · inputs)`, spread over them; the product in brackets is exact.
    fn add_products(
        self,
        sums: Self::Sums,
        numbers: Self::Bytes,
        scale: f32,
        inputs: &[i16; 16],
    ) -> Self::Sums;

    /// What all the sums are together.
    fn total(self, sums: [Self::Sums; 2]) -> f32;

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

    /// [`one_row`], compiled for this machine.
    fn one_row(self, product: &Product<'_>, parts: &Parts, first: usize, out: &mut [f32]);

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
    type Bytes = [u8; 16];
    type Sums = [f32; 16];

    #[inline(always)]
    fn load(self, bytes: &[u8; 16]) -> [u8; 16] {
        *bytes
    }

    #[inline(always)]
    fn bits(self, bytes: [u8; 16], shift: u8, mask: u8) -> [u8; 16] {
        bytes.map(|byte| (byte >> shift) & mask)
    }

    #[inline(always)]
    fn spread(self, bits: [u8; 2]) -> [u8; 16] {
        from_fn(|i| bits[i / 8] >> (i % 8) & 1)
    }

    #[inline(always)]
    fn joined(self, low: [u8; 16], high: [u8; 16], shift: u8) -> [u8; 16] {
        from_fn(|i| low[i] | high[i] << shift)
    }

    #[inline(always)]
    fn minus(self, codes: [u8; 16], less: i8) -> [u8; 16] {
        codes.map(|code| code.wrapping_sub(less as u8))
    }

    #[inline(always)]
    fn levels(self, codes: [u8; 16]) -> [u8; 16] {
        codes.map(|code| UNEVEN[usize::from(code & 15)] as u8)
    }

    #[inline(always)]
    fn scaled(self, numbers: [u8; 16], scale: f32, out: &mut [f32; 16]) {
        *out = numbers.map(|number| scale * f32::from(number as i8));
    }

    #[inline(always)]
    fn shifted(self, numbers: [u8; 16], scale: f32, shift: f32, out: &mut [f32; 16]) {
        *out = numbers.map(|number| scale * f32::from(number as i8) + shift);
    }

    #[inline(always)]
    fn add_scaled(self, numbers: [u8; 16], scale: f32, out: &mut [f32; 16]) {
        for (out, number) in out.iter_mut().zip(numbers) {
            *out += scale * f32::from(number as i8);
        }
    }

    #[inline(always)]
    fn add_shifted(self, numbers: [u8; 16], scale: f32, shift: f32, out: &mut [f32; 16]) {
        for (out, number) in out.iter_mut().zip(numbers) {
            *out += scale * f32::from(number as i8) + shift;
        }
    }

    #[inline(always)]
    fn no_sums(self) -> [f32; 16] {
        [0.0; 16]
    }

    #[inline(always)]
    fn add_products(
        self,
        sums: [f32; 16],
        numbers: [u8; 16],
        scale: f32,
        inputs: &[i16; 16],
    ) -> [f32; 16] {
        from_fn(|i| {
            let product = i32::from(numbers[i] as i8) * i32::from(inputs[i]);
            sums[i] + scale * product as f32
        })
    }

    #[inline(always)]
    fn total(self, sums: [[f32; 16]; 2]) -> f32 {
        sums.as_flattened().iter().sum()
    }

    fn one_row(self, product: &Product<'_>, parts: &Parts, first: usize, out: &mut [f32]) {
        one_row(self, product, parts, first, out);
    }

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

/// A row of the input in parts, as blocks have them.
pub(super) struct Parts(Vec<Part>);

/// Numbers that are multiplied by 32 entries of a block: whole ones of 16 bits times a scale. A
/// product of these and of whole numbers of 8 bits is exact, and costs half of one of floats. At most
/// 1/65534 of the largest number is lost of each, less than by f16 and by less than a hundredth of
/// llama.cpp's 8 bits.
pub(super) struct Part {
    pub inputs: [i16; 32],
    pub scale: f32,
    /// The sums of both halves, of the numbers as they were.
    pub sums: [f32; 2],
}

impl Parts {
    /// The parts of a row that fills blocks.
    pub fn of(row: &[f32]) -> Self {
        Self(row.as_chunks().0.iter().map(Part::of).collect())
    }
}

impl Part {
    /// Whatever is not finite makes all products so.
    fn of(numbers: &[f32; 32]) -> Self {
        // From here on floats have no fractions: adding it rounds to the nearest.
        const WHOLE: f32 = 12_582_912.0;
        const MOST: f32 = i16::MAX as f32;

        let sum = |half: &[f32]| half.iter().sum::<f32>();
        let sums = [sum(&numbers[..16]), sum(&numbers[16..])];
        let most = numbers.iter().fold(0.0f32, |most, number| most.max(number.abs()));
        let scale = match (sums[0] + sums[1]).is_finite() {
            true => most / MOST,
            false => f32::NAN,
        };
        let inverse = if most > 0.0 { MOST / most } else { 0.0 };
        let whole = |number: f32| (number * inverse + WHOLE - WHOLE) as i16;
        Self { inputs: numbers.map(whole), scale, sums }
    }
}

/// The products of one row of the input with the rows of a matrix of blocks from number `first` on,
/// as many as `out` has room for. Nothing is unpacked into memory. Sums are f32, 16 side by side.
#[inline(always)]
pub(super) fn one_row<M: Machine>(
    machine: M,
    product: &Product<'_>,
    parts: &Parts,
    first: usize,
    out: &mut [f32],
) {
    let rows = product.blocks[first * product.stride..].chunks_exact(product.stride);
    let rows = rows.take(out.len());
    read(machine, product.dtype, rows, &mut Dot::new(machine, &parts.0, out));
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
