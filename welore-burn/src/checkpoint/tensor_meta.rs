//! What a header says of a tensor.

use safetensors::Dtype;

/// A file, and where a tensor or a part of it is there.
pub(super) type At = (usize, TensorMeta);

/// Type, shape and place of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMeta {
    /// Stored type; BF16 for numbers of 8 bits with scales.
    pub dtype: Dtype,
    /// Stored shape; `[out, in]` for a matrix, also where the file has `[in, out]` (GPT-2).
    pub shape: Vec<usize>,
    /// Where its bytes are; somewhere in them for a part of
    /// [`Interleaved`](super::interleaved::Interleaved).
    pub(super) range: (usize, usize),
}

impl TensorMeta {
    /// Number of entries.
    pub fn parameters(&self) -> u64 {
        self.shape.iter().map(|n| *n as u64).product()
    }

    /// Whether it holds numbers of a type that weights are read in.
    pub fn is_float(&self) -> bool {
        matches!(self.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
    }

    /// Bytes of its entries in this type.
    pub fn bytes(&self) -> u64 {
        self.parameters().saturating_mul(self.dtype.bitsize() as u64) / 8
    }

    /// Bytes in its file.
    pub(super) fn stored_bytes(&self) -> u64 {
        (self.range.1 - self.range.0) as u64
    }

    /// A matrix of this shape within it, from this entry on, which is there.
    pub(super) fn matrix_at(&self, start: usize, shape: [usize; 2]) -> Self {
        let bytes = |entries: usize| entries * self.dtype.bitsize() / 8;
        let start = self.range.0 + bytes(start);
        let range = (start, start + bytes(shape[0] * shape[1]));
        Self { dtype: self.dtype, shape: shape.to_vec(), range }
    }
}
