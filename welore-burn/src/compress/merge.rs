use std::collections::BTreeMap;

use super::error::CompressError;
use super::job::{Job, Work};
use super::options::WriteOptions;
use super::pieces::Piece;
use crate::checkpoint::{Checkpoint, check_companions, copy_companions};
use crate::files::OutputDir;
use crate::progress::Progress;
use crate::spectrum::{ModelSize, Norms};
use crate::workers::Budget;

/// Writes a dense model directory from a compressed one: matrices are merged in f64 and stored in
/// the type of their parts, and every other tensor is copied byte for byte. The plan is left out.
/// Memory is bounded as in [`Compressor::directory`](super::Compressor::directory).
///
/// # Errors
///
/// [`CompressError`], such as [`CompressError::NotCompressed`].
pub fn merge_directory(
    checkpoint: &Checkpoint,
    output: &OutputDir,
    options: &WriteOptions,
    progress: &mut dyn Progress,
) -> Result<(), CompressError> {
    check_companions(checkpoint.dir())?;
    let pieces = pieces(checkpoint)?;
    let write = || -> Result<(), CompressError> {
        let (origin, norms) = (String::new(), Norms::plain());
        let work = Work::new("merging", origin, checkpoint, pieces, norms, *options)?;
        let mut job = Job::begin(&work, output)?;
        job.make("merging", |_| true, progress)?;
        job.finish()?;
        Ok(copy_companions(checkpoint.dir(), output.path())?)
    };
    write().map_err(|error| error.about(output))
}

/// The size of the model that [`merge_directory`] would write.
///
/// # Errors
///
/// [`CompressError::NotCompressed`], and [`CompressError::Oversized`] for a merged matrix that this
/// machine's memory cannot hold: factors of a few kilobytes can describe one of terabytes.
pub fn merged_size(checkpoint: &Checkpoint) -> Result<ModelSize, CompressError> {
    let (pieces, norms) = (pieces(checkpoint)?, Norms::plain());
    let needs = pieces.iter().map(|piece| (piece.name(), piece.cost(checkpoint, &norms).bytes));
    Budget::default().check(needs)?;
    let mut size = ModelSize::default();
    for piece in &pieces {
        for tensor in piece.tensors(checkpoint)? {
            size.parameters = size.parameters.saturating_add(tensor.entries());
            size.bytes = size.bytes.saturating_add(tensor.bytes());
        }
    }
    Ok(size)
}

/// Every tensor of the checkpoint, or the matrix that it is part of, once.
fn pieces(checkpoint: &Checkpoint) -> Result<Vec<Piece<'_>>, CompressError> {
    let compressed = checkpoint.compressed_matrices()?;
    if compressed.is_empty() {
        return Err(CompressError::NotCompressed { dir: checkpoint.dir().into() });
    }
    let mut parts = BTreeMap::new();
    for matrix in compressed {
        let tensors = matrix.tensors();
        let mut matrix = Some(matrix);
        for tensor in tensors {
            // The first of its tensors represents the matrix.
            parts.insert(tensor.name, matrix.take());
        }
    }
    let pieces = checkpoint.names().filter_map(|tensor| match parts.remove(tensor) {
        Some(matrix) => matrix.map(Piece::Merge),
        None => Some(Piece::Copy(tensor)),
    });
    Ok(pieces.collect())
}
