use anamnesis::GgufType;

use super::read_only::dequantize_row;
use crate::named::named;

/// How llama.cpp stores the entries of a tensor: as floats, or in blocks of neighbouring entries of
/// a row, each with its scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names of the types themselves")]
pub enum TensorType {
    F32,
    F16,
    Bf16,
    Q8_0,
    Q6K,
    Q5K,
    Q5_1,
    Q5_0,
    Q4K,
    Q4_1,
    Q4_0,
    Iq4Nl,
    Iq4Xs,
    Q3K,
    Q2K,
}

named!(TensorType {
    F32 => "f32", "floats of 32 bits";
    F16 => "f16", "floats of 16 bits with more precision and less range than bf16";
    Bf16 => "bf16", "floats of 16 bits with the range of f32";
    Q8_0 => "q8_0", "8.5 bits a weight: 8 and a scale for 32 weights";
    Q6K => "q6_k", "6.56 bits a weight: 6 and scales in blocks of 256 weights";
    Q5K => "q5_k", "5.5 bits a weight: 5, and scales and minima in blocks of 256 weights";
    Q5_1 => "q5_1", "6 bits a weight: 5, and a scale and a minimum for 32 weights";
    Q5_0 => "q5_0", "5.5 bits a weight: 5 and a scale for 32 weights";
    Q4K => "q4_k", "4.5 bits a weight: 4, and scales and minima in blocks of 256 weights";
    Q4_1 => "q4_1", "5 bits a weight: 4, and a scale and a minimum for 32 weights";
    Q4_0 => "q4_0", "4.5 bits a weight: 4 and a scale for 32 weights";
    Iq4Nl => "iq4_nl", "4.5 bits a weight: 16 uneven levels and a scale for 32 weights";
    Iq4Xs => "iq4_xs", "4.25 bits a weight: 16 uneven levels, and scales in blocks of 256 weights";
    Q3K => "q3_k", "3.44 bits a weight: 3 and scales in blocks of 256 weights";
    Q2K => "q2_k", "2.63 bits a weight: 2, and scales and minima in blocks of 256 weights";
});

impl TensorType {
    /// The type of a tensor in a file that was read, if it is one of these.
    pub(crate) fn of(dtype: GgufType) -> Option<Self> {
        use crate::named::Named;

        Self::all().iter().find(|own| own.gguf_type() == dtype).copied()
    }

    /// What the library that reads files calls it.
    fn gguf_type(self) -> GgufType {
        match self {
            Self::F32 => GgufType::F32,
            Self::F16 => GgufType::F16,
            Self::Bf16 => GgufType::BF16,
            Self::Q8_0 => GgufType::Q8_0,
            Self::Q6K => GgufType::Q6_K,
            Self::Q5K => GgufType::Q5_K,
            Self::Q5_1 => GgufType::Q5_1,
            Self::Q5_0 => GgufType::Q5_0,
            Self::Q4K => GgufType::Q4_K,
            Self::Q4_1 => GgufType::Q4_1,
            Self::Q4_0 => GgufType::Q4_0,
            Self::Iq4Nl => GgufType::IQ4_NL,
            Self::Iq4Xs => GgufType::IQ4_XS,
            Self::Q3K => GgufType::Q3_K,
            Self::Q2K => GgufType::Q2_K,
        }
    }

    /// Its number in files, ggml's `ggml_type`.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Iq4Nl => 20,
            Self::Iq4Xs => 23,
            Self::Bf16 => 30,
        }
    }

    /// How ggml spells its name, such as `q4_K`.
    pub fn ggml_name(self) -> String {
        use crate::named::Named;

        self.name().replace("_k", "_K")
    }

    /// Number of entries in a block; 1 for floats. Rows are whole blocks.
    pub fn block_len(self) -> usize {
        self.gguf_type().block_size()
    }

    /// Number of bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.gguf_type().type_size().expect("the library knows the sizes of all types here")
    }

    /// Number of bytes of a row; `None` if the row does not fill blocks.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let blocks = columns / self.block_len();
        columns.is_multiple_of(self.block_len()).then(|| blocks * self.block_bytes())
    }

    /// Whether entries are stored as floats, each for itself.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// The numbers that llama.cpp computes with, of a row of blocks; appended as little-endian f32.
    ///
    /// # Errors
    ///
    /// What is wrong with the blocks.
    ///
    /// # Panics
    ///
    /// If this is a type of floats.
    pub(crate) fn dequantize(
        self,
        row: &[u8],
        columns: usize,
        entries: &mut Vec<u8>,
    ) -> Result<(), String> {
        assert!(!self.is_float(), "floats have no blocks");
        dequantize_row(self.gguf_type(), row, columns, entries)
    }
}
