//! Types of llama.cpp's blocks that are read, and neither written nor computed with: their matrices
//! are unpacked when a file is converted.

use anamnesis::{F32Out, GgufType, dequantize_gguf_blocks};

/// All of them. Other types that have blocks, Q8_1 and Q8_K, are those of activations, which no file
/// has.
const READ_ONLY: [GgufType; 13] = [
    GgufType::IQ3_S,
    GgufType::IQ3_XXS,
    GgufType::IQ2_S,
    GgufType::IQ2_XS,
    GgufType::IQ2_XXS,
    GgufType::IQ1_M,
    GgufType::IQ1_S,
    GgufType::TQ2_0,
    GgufType::TQ1_0,
    GgufType::MXFP4,
    GgufType::NVFP4,
    GgufType::Q2_0,
    GgufType::Q1_0,
];

/// Whether a type is one of them.
pub(crate) fn is_read_only(dtype: GgufType) -> bool {
    READ_ONLY.contains(&dtype)
}

/// The numbers that llama.cpp computes with, of a row of blocks of any type that is read; appended as
/// little-endian f32.
///
/// # Errors
///
/// What is wrong with the blocks, or that the type has none.
pub(crate) fn dequantize_row(
    dtype: GgufType,
    row: &[u8],
    columns: usize,
    entries: &mut Vec<u8>,
) -> Result<(), String> {
    let append = |block: &[u8]| {
        entries.extend_from_slice(block);
        Ok(())
    };
    dequantize_gguf_blocks::<F32Out, _>(row, dtype, columns, append)
        .map_err(|error| error.to_string())
}
