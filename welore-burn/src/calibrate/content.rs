//! Which numbers a calibration file can have.

use super::file::{EMBEDDING, HEAD, Manifest, PROBES, SPREAD, inputs, outputs};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::linalg::packed_len;
use crate::words::number;

/// A second moment that was measured.
struct Measured {
    tensor: String,
    size: usize,
    /// The place of its spread.
    place: usize,
}

fn measured(manifest: &Manifest) -> Vec<Measured> {
    let of = |tensor: String, size: usize, place: usize| Measured { tensor, size, place };
    let has_gradients = manifest.gradient_windows > 0;
    let mut all = Vec::new();
    for (place, matrix) in manifest.matrices.iter().enumerate() {
        let [rows, cols] = matrix.shape;
        if matrix.inputs_of == matrix.name {
            all.push(of(inputs(&matrix.name), cols, 2 * place));
        }
        if has_gradients {
            all.push(of(outputs(&matrix.name), rows, 2 * place + 1));
        }
    }
    if let Some(width) = manifest.width {
        let place = 2 * manifest.matrices.len();
        all.push(of(HEAD.into(), width, place));
        if has_gradients {
            all.push(of(EMBEDDING.into(), width, place + 1));
        }
    }
    all
}

/// What is impossible about the numbers of a finished file, if anything is. Its tensors are those of its
/// manifest.
pub(super) fn problem_of(
    tensors: &Checkpoint,
    manifest: &Manifest,
) -> Result<Option<String>, CheckpointError> {
    let probes = numbers(tensors, PROBES)?;
    for (probe, matrix) in probes.into_iter().zip(&manifest.matrices) {
        if probe < 0.0 || probe.is_infinite() {
            let (name, probe) = (&matrix.name, number(probe));
            return Ok(Some(format!("the probe of `{name}` is {probe}, not a number from 0 on")));
        }
    }
    let spread = match manifest.has_spread() {
        true => numbers(tensors, SPREAD)?,
        false => Vec::new(),
    };
    for Measured { tensor, size, place } in measured(manifest) {
        if let Some(spread) = spread.get(place).filter(|x| !(0.0..=f64::MAX).contains(*x)) {
            return Ok(Some(format!(
                "the spread of `{tensor}` is {}, not a number from 0 on",
                number(*spread)
            )));
        }
        if let Some(square) = negative_square(tensors, &tensor, size)? {
            let square = number(square.into());
            return Ok(Some(format!("`{tensor}` has the mean square {square}")));
        }
    }
    Ok(None)
}

/// The first negative entry of the diagonal of a second moment.
fn negative_square(
    tensors: &Checkpoint,
    tensor: &str,
    size: usize,
) -> Result<Option<f32>, CheckpointError> {
    let (_, bytes) = tensors.raw(tensor)?;
    let (entries, _) = bytes.as_chunks::<4>();
    // The last entry of each row of the lower half.
    let square = |i: usize| f32::from_le_bytes(entries[packed_len(i + 1) - 1]);
    let found = (0..size).map(square).find(|square| *square < 0.0);
    tensors.release(tensor);
    Ok(found)
}

fn numbers(tensors: &Checkpoint, tensor: &str) -> Result<Vec<f64>, CheckpointError> {
    let (_, bytes) = tensors.raw(tensor)?;
    let (entries, _) = bytes.as_chunks::<8>();
    Ok(entries.iter().map(|entry| f64::from_le_bytes(*entry)).collect())
}
