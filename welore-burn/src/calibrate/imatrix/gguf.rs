//! The format of `llama-imatrix` since 2025: tensors `X.in_sum2`, the sums of squares, and
//! `X.counts`, the numbers of tokens.

use std::path::Path;

use super::{Content, Entry, mean_squares, wrong};
use crate::calibrate::error::CalibrationError;
use crate::ggml::{GgufFile, TensorType};

pub(super) const TYPE: &str = "general.type";
pub(super) const IMATRIX: &str = "imatrix";
pub(super) const DATASETS: &str = "imatrix.datasets";
pub(super) const CHUNK_COUNT: &str = "imatrix.chunk_count";
pub(super) const CHUNK_SIZE: &str = "imatrix.chunk_size";
pub(super) const SUMS: &str = ".in_sum2";
pub(super) const COUNTS: &str = ".counts";

pub(super) fn read(path: &Path) -> Result<Content, CalibrationError> {
    let file = GgufFile::open(path)?;
    let not = |reason: String| CalibrationError::NotImatrix { path: path.into(), reason };
    match file.text(TYPE)? {
        Some(IMATRIX) => {}
        Some(other) => return Err(not(format!("its `{TYPE}` is `{other}`"))),
        None => return Err(not(format!("it has no `{TYPE}`"))),
    }
    let datasets = file.texts(DATASETS)?.unwrap_or_default().to_vec();
    let chunks = file.integer(CHUNK_COUNT)?.unwrap_or(0);
    let chunks = usize::try_from(chunks).unwrap_or(usize::MAX);
    let mut content = Content { datasets, chunks, ..Content::default() };
    for tensor in file.tensors().keys() {
        if let Some(name) = tensor.strip_suffix(SUMS) {
            let entry = entry(&file, name)?;
            content.entries.insert(name.into(), entry);
        } else if let Some(name) = tensor.strip_suffix(COUNTS)
            && !file.tensors().contains_key(&format!("{name}{SUMS}"))
        {
            return Err(wrong(path, name, "has counts, but no sums of squares"));
        }
    }
    file.check_unchanged()?;
    Ok(content)
}

/// What the file says of a matrix.
fn entry(file: &GgufFile, name: &str) -> Result<Entry, CalibrationError> {
    let path = file.path();
    let counts = floats(file, name, COUNTS)?;
    let sums = floats(file, name, SUMS)?;
    let (&[count], []) = counts.as_chunks::<4>() else {
        let (matrices, _) = counts.as_chunks::<4>();
        let reason = format!(
            "is {} matrices, as in a mixture of experts, which cannot be compressed",
            matrices.len()
        );
        return Err(wrong(path, name, reason));
    };
    let count = f32::from_le_bytes(count);
    if !(count.is_finite() && count >= 1.0) {
        return Err(wrong(path, name, format!("was measured on {count} tokens")));
    }
    if sums.is_empty() {
        return Err(wrong(path, name, "has no inputs"));
    }
    let squares = mean_squares(path, name, sums, f64::from(count))?;
    // Counts are whole numbers, as far as an f32 can hold them.
    Ok(Entry { squares, count: count.round() as u64 })
}

/// The bytes of a tensor of f32.
fn floats<'a>(file: &'a GgufFile, name: &str, part: &str) -> Result<&'a [u8], CalibrationError> {
    let tensor = format!("{name}{part}");
    let Some(info) = file.tensors().get(&tensor) else {
        return Err(wrong(file.path(), name, format!("has no `{part}`")));
    };
    match TensorType::of(info.dtype) {
        Some(TensorType::F32) => Ok(file.bytes(info)),
        _ => Err(wrong(file.path(), name, format!("has a `{part}` that is not F32"))),
    }
}
