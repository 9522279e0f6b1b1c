//! MXFP4: numbers of 4 bits, of which 32 share an exponent.

use std::sync::LazyLock;

use half::bf16;

use super::reader::Checkpoint;
use super::tensor_meta::{At, TensorMeta};

/// Numbers that share an exponent.
pub(super) const BLOCK: usize = 32;

/// The numbers of 4 bits, without their signs.
const NUMBERS: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// The numbers of all codes with each exponent, in BF16, which has all of them.
static IN_BF16: LazyLock<Vec<[[u8; 2]; 16]>> =
    LazyLock::new(|| (0..=u8::MAX).map(numbers_with).collect());

/// The numbers of all codes with an exponent, to which 127 was added.
fn numbers_with(exponent: u8) -> [[u8; 2]; 16] {
    let scale = 2f32.powi(i32::from(exponent) - 127);
    std::array::from_fn(|code| {
        let size = NUMBERS[code & 7] * scale;
        bf16::from_f32(if code & 8 == 0 { size } else { -size }).to_le_bytes()
    })
}

/// Where the rows of a matrix are.
#[derive(Debug, Clone)]
pub(super) struct Mxfp4Rows {
    /// Two numbers in a byte, the first in its lower half.
    pub codes: At,
    /// The exponents, with 127 added.
    pub exponents: At,
    /// The number of the first row.
    pub first: usize,
    /// From one row to the next.
    pub step: usize,
}

impl Mxfp4Rows {
    /// The entries of a matrix of this shape in BF16, row-major.
    pub fn numbers(&self, checkpoint: &Checkpoint, shape: [usize; 2]) -> Vec<u8> {
        let mut made = Vec::with_capacity(2 * shape[0] * shape[1]);
        for (codes, exponent) in self.blocks(checkpoint, shape) {
            extend_with_numbers(&mut made, codes, exponent);
        }
        made
    }

    /// The same matrix in the blocks of ggml's type MXFP4.
    pub fn ggml_blocks(&self, checkpoint: &Checkpoint, shape: [usize; 2]) -> Vec<u8> {
        let blocks = shape[0] * shape[1] / BLOCK;
        let mut made = Vec::with_capacity(blocks * (1 + BLOCK / 2));
        for (codes, exponent) in self.blocks(checkpoint, shape) {
            extend_with_ggml_block(&mut made, codes, exponent);
        }
        made
    }

    /// The codes of each block of a matrix of this shape, and its exponent.
    fn blocks<'c>(
        &self,
        checkpoint: &'c Checkpoint,
        [rows, cols]: [usize; 2],
    ) -> impl Iterator<Item = (&'c [u8; BLOCK / 2], u8)> {
        let codes = checkpoint.bytes_at(self.codes.0, &self.codes.1);
        let exponents = checkpoint.bytes_at(self.exponents.0, &self.exponents.1);
        let row_at = move |row: usize| self.first + row * self.step;
        (0..rows).map(row_at).flat_map(move |row| {
            let codes = &codes[row * cols / 2..][..cols / 2];
            let exponents = &exponents[row * cols / BLOCK..][..cols / BLOCK];
            codes.as_chunks::<{ BLOCK / 2 }>().0.iter().zip(exponents.iter().copied())
        })
    }
}

/// Appends the numbers of a block in BF16.
fn extend_with_numbers(made: &mut Vec<u8>, codes: &[u8; BLOCK / 2], exponent: u8) {
    let numbers = &IN_BF16[usize::from(exponent)];
    let mut block = [[0; 2]; BLOCK];
    for (pair, both) in block.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
        *pair = [numbers[usize::from(both & 15)], numbers[usize::from(both >> 4)]];
    }
    made.extend_from_slice(block.as_flattened());
}

/// Appends a block as ggml has it: the exponent, and in each byte a number of the first half of the block
/// and one of the second, where files have two neighbours.
fn extend_with_ggml_block(made: &mut Vec<u8>, codes: &[u8; BLOCK / 2], exponent: u8) {
    let code = |at: usize| (codes[at / 2] >> (4 * (at % 2))) & 15;
    made.push(exponent);
    made.extend((0..BLOCK / 2).map(|at| code(at) | (code(at + BLOCK / 2) << 4)));
}

/// Bytes of the exponents of a matrix.
pub(super) fn bytes_of_exponents(matrix: &TensorMeta) -> u64 {
    matrix.parameters() / BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1, -6, 0.5 and -0, and all others 0.
    const CODES: [u8; 16] = [0xf2, 0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn numbers_of_four_bits_are_those_of_the_format() {
        let mut made = Vec::new();
        // Twice what they are.
        extend_with_numbers(&mut made, &CODES, 128);
        assert_eq!(made.len(), 2 * BLOCK);
        let halves = made.as_chunks::<2>().0.iter();
        let numbers: Vec<f32> = halves.map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect();
        assert_eq!(numbers[..4], [2.0, -12.0, 1.0, 0.0]);
        // The smallest one and the largest one that there are.
        assert_eq!(numbers_with(0)[1], bf16::from_f32(2f32.powi(-128)).to_le_bytes());
        assert_eq!(numbers_with(252)[7], bf16::from_f32(6.0 * 2f32.powi(125)).to_le_bytes());
    }

    #[test]
    fn halves_of_a_block_share_bytes_in_ggml() {
        let mut codes = CODES;
        codes[8] = 0x53;
        let mut made = Vec::new();
        extend_with_ggml_block(&mut made, &codes, 7);
        assert_eq!(made[..5], [7, 0x32, 0x5f, 0x01, 0x08]);
        assert_eq!(made[5..], [0; 12]);
    }
}
