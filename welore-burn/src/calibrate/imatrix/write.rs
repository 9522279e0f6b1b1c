use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::gguf::{CHUNK_COUNT, CHUNK_SIZE, COUNTS, DATASETS, IMATRIX, SUMS, TYPE};
use crate::calibrate::calibration::Calibration;
use crate::calibrate::error::CalibrationError;
use crate::ggml::{
    GgufLayout, GgufTensorSpec, GgufWriter, TensorType, Value, Values, stack_of_matrix,
    tensor_of_matrix,
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
    let tensors = tensors_of(calibration)?;
    let mut specs = Vec::new();
    for (tensor, names) in &tensors {
        let width = width_of(calibration, names)?;
        let [sums, counts] = match names.keys().any(Option::is_some) {
            true => [vec![names.len(), width], vec![names.len(), 1]],
            false => [vec![width], vec![1]],
        };
        for (part, shape) in [(SUMS, sums), (COUNTS, counts)] {
            let name = format!("{tensor}{part}");
            specs.push(GgufTensorSpec { name, shape, dtype: TensorType::F32.into() });
        }
    }
    let layout = GgufLayout::new(&metadata(calibration), &specs)?;
    let mut writer = GgufWriter::create(path, &layout)?;
    for (tensor, names) in &tensors {
        let mut counts = Vec::new();
        for name in names.values() {
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
            writer.append(&format!("{tensor}{SUMS}"), &sums)?;
            counts.extend(count.to_le_bytes());
        }
        writer.write(&format!("{tensor}{COUNTS}"), &counts)?;
    }
    writer.finish()?;
    let matrices = tensors.values().map(BTreeMap::len).sum();
    Ok(ImatrixSummary { matrices, bytes: layout.bytes() })
}

/// The matrices of a tensor: one, or one for each expert, by its number.
type Members<'c> = BTreeMap<Option<usize>, &'c MatrixName>;

/// The tensors that llama.cpp has for these matrices, in its order.
fn tensors_of(
    calibration: &Calibration,
) -> Result<BTreeMap<String, Members<'_>>, CalibrationError> {
    let mut tensors: BTreeMap<String, Members<'_>> = BTreeMap::new();
    for name in calibration.names() {
        let place = match stack_of_matrix(name.as_str()) {
            Some((tensor, expert)) => Some((tensor, Some(expert))),
            None => tensor_of_matrix(name.as_str()).map(|tensor| (tensor, None)),
        };
        let none = || CalibrationError::NoTensor(name.clone());
        let (tensor, expert) = place.ok_or_else(none)?;
        if tensors.entry(tensor).or_default().insert(expert, name).is_some() {
            return Err(none());
        }
    }
    Ok(tensors)
}

/// The number of inputs of the matrices of a tensor. Experts are numbered without gaps.
fn width_of(calibration: &Calibration, names: &Members<'_>) -> Result<usize, CalibrationError> {
    let mut widths = Vec::new();
    for ((expert, name), place) in names.iter().zip(0..) {
        widths.push(calibration.input_width(name)?);
        if widths[place] != widths[0] || expert.is_some_and(|expert| expert != place) {
            return Err(CalibrationError::NoTensor((*name).clone()));
        }
    }
    Ok(widths.first().copied().unwrap_or(0))
}

/// What the file says of the texts.
fn metadata(calibration: &Calibration) -> HashMap<String, Value> {
    let names = calibration.texts().iter().map(|text| text.name.clone());
    let mut names: Vec<String> = names.filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        names.push(UNNAMED.into());
    }
    let (windows, tokens) = calibration.counts();
    let number = |n: usize| Value::U32(u32::try_from(n).unwrap_or(u32::MAX));
    HashMap::from([
        (TYPE.into(), Value::String(IMATRIX.into())),
        (DATASETS.into(), Value::Array(Box::new(Values::String(names)))),
        (CHUNK_COUNT.into(), number(windows)),
        (CHUNK_SIZE.into(), number(tokens)),
    ])
}
