//! Decodes stored tensors into the rows of a model directory.

use anamnesis::GgufType;
use half::{bf16, f16};
use safetensors::Dtype;

use super::error::GgufError;
use super::names::Part;
use super::planned::Planned;
use crate::checkpoint::not_finite;
use crate::ggml::{GgufFile, StoredTensor, TensorType, dequantize_row, is_read_only};

/// The type that quantized tensors become: F32 loses nothing of what llama.cpp computes with.
/// [`decode`] asks the library for the same type.
const DEQUANTIZED: Dtype = Dtype::F32;

/// The type that a tensor has in the model directory; `None` if its type in the file is not
/// supported.
pub(super) fn stored_dtype(dtype: GgufType) -> Option<Dtype> {
    match TensorType::of(dtype) {
        Some(TensorType::F32) => Some(Dtype::F32),
        Some(TensorType::F16) => Some(Dtype::F16),
        Some(TensorType::Bf16) => Some(Dtype::BF16),
        Some(_) => Some(DEQUANTIZED),
        None => is_read_only(dtype).then_some(DEQUANTIZED),
    }
}

/// The content of a tensor as planned, row-major: entries, little-endian, or blocks.
pub(super) fn decode(
    file: &GgufFile,
    info: &StoredTensor,
    planned: &Planned,
) -> Result<Vec<u8>, GgufError> {
    let mut data = match &planned.split {
        Some(split) => split.merged(file, planned)?,
        None => rows(file, info, planned)?,
    };
    if planned.scale != 1.0 {
        data = scaled(&data, planned.scale);
    }
    if planned.shift != 0.0 {
        data = shifted(&data, -planned.shift);
    }
    let found = match (planned.packed, planned.spec.dtype) {
        (Some(kept), _) => infinite(kept, &data),
        (None, Dtype::F16) => not_finite(&data, |x| f16::from_le_bytes(x).to_f32()),
        (None, Dtype::BF16) => not_finite(&data, |x| bf16::from_le_bytes(x).to_f32()),
        (None, _) => not_finite(&data, f32::from_le_bytes),
    };
    match found {
        None => Ok(data),
        Some((index, value)) => {
            let (path, tensor) = (file.path_of(info).into(), info.name.clone());
            Err(GgufError::NotFinite { path, tensor, index, value })
        }
    }
}

/// The rows of a tensor, or of a part of it, in the order of the model directory: entries, or blocks if
/// they are kept.
fn rows(file: &GgufFile, info: &StoredTensor, planned: &Planned) -> Result<Vec<u8>, GgufError> {
    let spec = &planned.spec;
    let columns = planned.order.columns(&spec.shape);
    let entries: usize = spec.shape.iter().product();
    let rows = entries / columns;
    let bytes = Part::of(planned.part, file.bytes(info));
    let stride = bytes.len() / rows;
    let mut data = Vec::with_capacity(entries * spec.dtype.bitsize() / 8);
    for row in 0..rows {
        let start = planned.order.file_row(row, rows) * stride;
        let row = &bytes[start..start + stride];
        match info.dtype.is_quantized() && planned.packed.is_none() {
            false => data.extend_from_slice(row),
            true => dequantize_row(info.dtype, row, columns, &mut data).map_err(|error| {
                file.wrong_tensor::<GgufError>(&info.name, format!("is damaged: {error}"))
            })?,
        }
    }
    Ok(data)
}

/// The first entry in blocks that is infinite or not a number, and its position.
fn infinite(kept: TensorType, blocks: &[u8]) -> Option<(usize, f32)> {
    let block = kept.not_finite(blocks)?;
    let (size, len) = (kept.block_bytes(), kept.block_len());
    let entries = kept.unpack_rows(&blocks[block * size..][..size], len);
    let at = entries.iter().position(|x| !x.is_finite()).unwrap_or(0);
    Some((block * len + at, entries[at]))
}

/// The entries of a small F32 vector of the length `count`.
pub(super) fn read_factors(
    file: &GgufFile,
    name: &str,
    count: usize,
) -> Result<Vec<f64>, GgufError> {
    match file.tensors().get(name) {
        Some(info) if info.dtype == GgufType::F32 && info.shape == [count] => {
            let (entries, _) = file.bytes(info).as_chunks::<4>();
            Ok(entries.iter().map(|x| f64::from(f32::from_le_bytes(*x))).collect())
        }
        Some(info) => {
            let reason = format!("is {} {:?}, not F32 [{count}]", info.dtype, info.shape);
            Err(file.wrong_tensor(name, reason))
        }
        None => Err(file.wrong_tensor(name, "is missing".into())),
    }
}

/// Numbers of 32 bits with `shift` added.
pub(super) fn shifted(data: &[u8], shift: f32) -> Vec<u8> {
    let (entries, _) = data.as_chunks::<4>();
    entries.iter().flat_map(|x| (f32::from_le_bytes(*x) + shift).to_le_bytes()).collect()
}

/// Numbers of 32 bits times `scale`.
fn scaled(data: &[u8], scale: f32) -> Vec<u8> {
    let (entries, _) = data.as_chunks::<4>();
    entries.iter().flat_map(|x| (f32::from_le_bytes(*x) * scale).to_le_bytes()).collect()
}
