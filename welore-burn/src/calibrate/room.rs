//! How much room a calibration needs on disk.

use std::collections::BTreeSet;

use super::collector::Watch;
use super::error::CalibrationError;
use super::hidden::MOST_IN_MEMORY;
use super::options::{CalibrationOptions, CalibrationSummary};
use crate::linalg::packed_len;
use crate::model::LanguageModel;

/// Bytes that [`calibrate`](super::calibrate) writes at least where its file will be, for what
/// [`preview_calibration`](super::preview_calibration) says: second moments, and the hidden states that
/// are in files meanwhile. It is less than what is written where matrices of a block have inputs of one
/// size that are not the same. Computes nothing: a model without weights will do.
///
/// # Errors
///
/// [`CalibrationError`] for a model whose matrices cannot be calibrated.
pub fn calibration_room(
    model: &impl LanguageModel,
    summary: &CalibrationSummary,
    options: &CalibrationOptions,
) -> Result<u64, CalibrationError> {
    let watch = Watch::new(model)?;
    let CalibrationSummary { windows, gradient_windows, seq_len, .. } = *summary;
    let (mut inputs, mut entries, mut width) = (BTreeSet::new(), 0u64, 0);
    for matrix in model.matrices() {
        let [rows, cols] = watch.shape(&matrix.name);
        // Those of one size may be shared.
        if inputs.insert((matrix.block, cols)) {
            entries = entries.saturating_add(packed_len(cols) as u64);
        }
        if gradient_windows > 0 {
            entries = entries.saturating_add(packed_len(rows) as u64);
        }
        if matrix.writes_residual {
            width = rows.max(width);
        }
    }
    let numbers = |factors: &[usize]| {
        factors.iter().fold(1u64, |product, factor| product.saturating_mul(*factor as u64))
    };
    let kept = numbers(&[gradient_windows, seq_len, width, model.blocks(), size_of::<f32>()]);
    let states = match options.resumable {
        // In each direction two files take turns.
        true => {
            let turns = model.blocks().min(2);
            let all = windows.saturating_add(gradient_windows);
            kept.saturating_add(numbers(&[turns, all, seq_len, width, size_of::<f32>()]))
        }
        false => kept.saturating_sub(MOST_IN_MEMORY),
    };
    Ok(entries.saturating_mul(size_of::<f32>() as u64).saturating_add(states))
}
