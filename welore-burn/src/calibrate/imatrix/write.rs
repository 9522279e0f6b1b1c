use std::collections::HashMap;
use std::path::Path;

use super::gguf::{CHUNK_COUNT, CHUNK_SIZE, COUNTS, DATASETS, IMATRIX, SUMS, TYPE};
use crate::calibrate::calibration::Calibration;
use crate::calibrate::error::CalibrationError;
use crate::ggml::{
    GgufLayout, GgufTensorSpec, GgufWriter, TensorType, Value, Values, tensor_of_matrix,
};
use crate::modules::MatrixName;

/// The name of a text that has none: `llama-quantize` needs one.
const UNNAMED: &str = "unnamed";

/// What was written as an importance matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct ImatrixSummary {
    /// Number of matrices.
    pub matrices: usize,
    /// Number of bytes of the file.
    pub bytes: u64,
}

/// Writes the squares of the inputs in a calibration as an importance matrix of llama.cpp, a GGUF
/// file for `llama-quantize --imatrix`, whole or not at all. Gradients and products of different
/// inputs have no place in it.
///
/// # Errors
///
/// [`CalibrationError::NoTensor`] for a matrix that llama.cpp has no name for, and errors of reading
/// and writing.
pub fn write_imatrix(
    calibration: &Calibration,
    path: &Path,
) -> Result<ImatrixSummary, CalibrationError> {
    let mut names: Vec<(&MatrixName, String)> = calibration
        .names()
        .map(|name| match tensor_of_matrix(name.as_str()) {
            Some(tensor) => Ok((name, tensor)),
            None => Err(CalibrationError::NoTensor(name.clone())),
        })
        .collect::<Result<_, _>>()?;
    // llama.cpp's order.
    names.sort_by(|(_, one), (_, other)| one.cmp(other));
    let mut specs = Vec::new();
    for (name, tensor) in &names {
        let width = calibration.input_width(name)?;
        for (part, size) in [(SUMS, width), (COUNTS, 1)] {
            let name = format!("{tensor}{part}");
            specs.push(GgufTensorSpec { name, shape: vec![size], dtype: TensorType::F32 });
        }
    }
    let layout = GgufLayout::new(&metadata(calibration), &specs)?;
    let mut writer = GgufWriter::create(path, &layout)?;
    for (name, tensor) in &names {
        let moment = calibration.input_squares(name)?;
        // Sums are divided by the count as the file has it.
        let count = moment.count().max(1) as f32;
        let mut sums = Vec::new();
        for square in moment.squares() {
            let sum = (square * f64::from(count)) as f32;
            if !sum.is_finite() {
                let (what, name) = ("inputs", (*name).clone());
                return Err(CalibrationError::NotFinite { what, name });
            }
            sums.extend(sum.to_le_bytes());
        }
        writer.write(&format!("{tensor}{SUMS}"), &sums)?;
        writer.write(&format!("{tensor}{COUNTS}"), &count.to_le_bytes())?;
    }
    writer.finish()?;
    Ok(ImatrixSummary { matrices: names.len(), bytes: layout.bytes() })
}

/// What the file says of the texts.
fn metadata(calibration: &Calibration) -> HashMap<String, Value> {
    let names = calibration.texts().iter().map(|text| text.name.clone());
    let mut names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        names.push(UNNAMED.into());
    }
    let (windows, tokens) = calibration.amount();
    let number = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    HashMap::from([
        (TYPE.into(), Value::String(IMATRIX.into())),
        (DATASETS.into(), Value::Array(Box::new(Values::String(names)))),
        (CHUNK_COUNT.into(), number(windows)),
        (CHUNK_SIZE.into(), number(tokens)),
    ])
}
