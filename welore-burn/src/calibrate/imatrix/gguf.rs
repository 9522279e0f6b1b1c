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
            let entries = entries(&file, name)?;
            content.entries.insert(name.into(), entries);
        } else if let Some(name) = tensor.strip_suffix(COUNTS)
            && !file.tensors().contains_key(&format!("{name}{SUMS}"))
        {
            return Err(wrong(path, name, "has counts, but no sums of squares"));
        }
    }
    file.check_unchanged()?;
    Ok(content)
}

/// What the file says of a matrix, or of the same matrix of each expert of a layer.
fn entries(file: &GgufFile, name: &str) -> Result<Vec<Entry>, CalibrationError> {
    let path = file.path();
    let (counts, _) = floats(file, name, COUNTS)?.as_chunks::<4>();
    let counts: Vec<f32> = counts.iter().map(|count| f32::from_le_bytes(*count)).collect();
    let sums = floats(file, name, SUMS)?;
    // A router may have given an expert nothing.
    let may_be = |count: f32| count >= 1.0 || (count == 0.0 && counts.len() > 1);
    if let Some(count) = counts.iter().find(|count| !(count.is_finite() && may_be(**count))) {
        return Err(wrong(path, name, format!("was measured on {count} tokens")));
    }
    if sums.is_empty() || counts.is_empty() {
        return Err(wrong(path, name, "has no inputs"));
    }
    if !sums.len().is_multiple_of(size_of::<f32>() * counts.len()) {
        let (sums, matrices) = (sums.len() / size_of::<f32>(), counts.len());
        return Err(wrong(path, name, format!("has {sums} sums for {matrices} matrices")));
    }
    let mut found = Vec::new();
    for (sums, count) in sums.chunks_exact(sums.len() / counts.len()).zip(&counts) {
        found.push(match *count {
            0.0 => None,
            count => {
                let squares = mean_squares(path, name, sums, f64::from(count))?;
                // Counts are whole numbers, as far as an f32 can hold them.
                Some(Entry { squares, count: count.round() as u64 })
            }
        });
    }
    match mean_of(found.iter().flatten()) {
        Some(mean) => {
            Ok(found.into_iter().map(|one| one.unwrap_or_else(|| mean.clone())).collect())
        }
        None => Err(wrong(path, name, "was measured on 0 tokens")),
    }
}

/// What is known of an expert that saw no token: the mean squares of all tokens that others saw, as if
/// it had seen one of them. `None` if there are none.
fn mean_of<'e>(entries: impl Iterator<Item = &'e Entry>) -> Option<Entry> {
    let (mut squares, mut total) = (Vec::new(), 0.0);
    for entry in entries {
        let count = entry.count as f64;
        squares.resize(entry.squares.len(), 0.0);
        for (sum, square) in squares.iter_mut().zip(&entry.squares) {
            *sum += square * count;
        }
        total += count;
    }
    squares.iter_mut().for_each(|sum| *sum /= total);
    (total > 0.0).then_some(Entry { squares, count: 1 })
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
