use burn::tensor::Device;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::attach::NewParams;
use super::error::FormError;
use super::form::{Form, FormAndShape, Kind, Made, MatrixForm, Shapes};
use super::packed::{BLOCKS, NewPacked, type_of_base};
use super::part::{Part, PartKind, PartSpec};
use super::slots::{Codec, LiveSlot};
use super::work::Work;
use crate::ggml::TensorType;
use crate::linalg::{Cost, Matrix, Weighting};
use crate::named::Named;

/// The blocks of one of llama.cpp's types, in `X.weight.TYPE [out, bytes of a row]`, U8: the bytes
/// that a GGUF file has, with the rows in the order of the model directory. What is computed with are
/// the numbers that llama.cpp computes with. They do not train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// The type. F32 has no blocks; it is the dense form.
    #[serde(rename = "type")]
    pub tensor_type: TensorType,
}

/// The types that stay packed, with the suffix of the tensor of each.
static TYPES: [(TensorType, &str); 14] = [
    (TensorType::F16, "weight.f16"),
    (TensorType::Bf16, "weight.bf16"),
    (TensorType::Q8_0, "weight.q8_0"),
    (TensorType::Q6K, "weight.q6_k"),
    (TensorType::Q5K, "weight.q5_k"),
    (TensorType::Q5_1, "weight.q5_1"),
    (TensorType::Q5_0, "weight.q5_0"),
    (TensorType::Q4K, "weight.q4_k"),
    (TensorType::Q4_1, "weight.q4_1"),
    (TensorType::Q4_0, "weight.q4_0"),
    (TensorType::Iq4Nl, "weight.iq4_nl"),
    (TensorType::Iq4Xs, "weight.iq4_xs"),
    (TensorType::Q3K, "weight.q3_k"),
    (TensorType::Q2K, "weight.q2_k"),
];

/// One for each type, because every kind has a leading tensor.
pub(super) static KINDS: [Kind; 14] = [
    kind(&["weight.f16"]),
    kind(&["weight.bf16"]),
    kind(&["weight.q8_0"]),
    kind(&["weight.q6_k"]),
    kind(&["weight.q5_k"]),
    kind(&["weight.q5_1"]),
    kind(&["weight.q5_0"]),
    kind(&["weight.q4_k"]),
    kind(&["weight.q4_1"]),
    kind(&["weight.q4_0"]),
    kind(&["weight.iq4_nl"]),
    kind(&["weight.iq4_xs"]),
    kind(&["weight.q3_k"]),
    kind(&["weight.q2_k"]),
];

const fn kind(suffixes: &'static [&'static str]) -> Kind {
    Kind { stored, live, suffixes }
}

fn stored(shape_of: &Shapes<'_>) -> Option<FormAndShape> {
    TYPES.iter().find_map(|(tensor_type, suffix)| {
        let shape = shape_of(suffix)?.try_into().ok()?;
        Some((Form::blocks(*tensor_type), matrix_shape(*tensor_type, shape)?))
    })
}

fn live(shape_of: &Shapes<'_>, of_linear: bool) -> Option<FormAndShape> {
    let shape = shape_of(BLOCKS)?.try_into().ok()?;
    let tensor_type = type_of_base(&shape_of("")?)?;
    let [rows, columns] = matrix_shape(tensor_type, shape)?;
    // The blocks of a linear layer are those of `[out, in]`. An embedding has a row for each input.
    let shape = if of_linear { [rows, columns] } else { [columns, rows] };
    Some((Form::blocks(tensor_type), shape))
}

/// The shape of a matrix, from that of its tensor. `None` if its rows are not whole blocks.
fn matrix_shape(tensor_type: TensorType, [rows, row_bytes]: [usize; 2]) -> Option<[usize; 2]> {
    let bytes = tensor_type.block_bytes();
    let columns = (row_bytes / bytes).checked_mul(tensor_type.block_len())?;
    row_bytes.is_multiple_of(bytes).then_some([rows, columns])
}

/// Number of parameters in a tensor of a checkpoint: as many as it has entries, except that indices
/// are none, and blocks are as many as they are unpacked.
pub(crate) fn parameters_in(tensor: &str, dtype: Dtype, shape: &[usize]) -> u64 {
    let product = |shape: &[usize]| shape.iter().map(|n| *n as u64).fold(1, u64::saturating_mul);
    match (dtype, shape) {
        (Dtype::I32, _) => 0,
        (Dtype::U8, [rows, row_bytes]) => {
            let of_blocks = TYPES.iter().find(|(_, suffix)| {
                let name = tensor.strip_suffix(suffix);
                name.is_some_and(|name| name.is_empty() || name.ends_with('.'))
            });
            let matrix = of_blocks.and_then(|(of, _)| matrix_shape(*of, [*rows, *row_bytes]));
            product(matrix.as_ref().map_or(shape, |matrix| &matrix[..]))
        }
        _ => product(shape),
    }
}

impl Blocks {
    fn suffix(self) -> Option<&'static str> {
        TYPES.iter().find(|(tensor_type, _)| *tensor_type == self.tensor_type).map(|(_, s)| *s)
    }
}

impl MatrixForm for Blocks {
    fn rank(&self) -> Option<usize> {
        None
    }

    fn problem(&self, [_, columns]: [usize; 2]) -> Option<String> {
        let (name, block) = (self.tensor_type.name(), self.tensor_type.block_len());
        if self.suffix().is_none() {
            return Some(format!("{name} has no blocks"));
        }
        let fills = columns.is_multiple_of(block);
        (!fills).then(|| format!("rows of {columns} entries; {name} needs a multiple of {block}"))
    }

    fn parameters(&self, [rows, columns]: [usize; 2]) -> u64 {
        (rows as u64).saturating_mul(columns as u64)
    }

    fn tensors(&self, [rows, columns]: [usize; 2]) -> Vec<PartSpec> {
        // Where `problem` has something to say, nothing is stored.
        let suffix = self.suffix().unwrap_or("weight");
        let row_bytes = self.tensor_type.row_bytes(columns).unwrap_or(0);
        vec![PartSpec { suffix, shape: vec![rows, row_bytes], kind: PartKind::Blocks }]
    }

    fn make(&self, matrix: &Matrix, norm: &Weighting) -> Result<Made, FormError> {
        let (rows, columns) = (matrix.rows(), matrix.cols());
        let entries: Vec<f32> = matrix.data().iter().map(|x| *x as f32).collect();
        let bytes = self.tensor_type.quantize(&entries, columns, None)?;
        let stored = self.tensor_type.dequantize_rows(&bytes, columns)?;
        let gaps = stored.iter().zip(matrix.data()).map(|(a, b)| f64::from(*a) - b).collect();
        let error = norm.apply(&Matrix::new(rows, columns, gaps)?)?.norm();
        let size = norm.apply(matrix)?.norm();
        let relative_error = if size == 0.0 { 0.0 } else { error / size };
        Ok(Made { parts: vec![Part::Blocks(bytes)], relative_error })
    }

    fn cost_to_make(&self, shape: [usize; 2]) -> Cost {
        Cost::of_product(shape, 0)
    }

    fn merge(&self, [rows, columns]: [usize; 2], parts: Vec<Part>) -> Result<Matrix, FormError> {
        match <[Part; 1]>::try_from(parts) {
            Ok([Part::Blocks(bytes)]) => {
                let entries = self.tensor_type.dequantize_rows(&bytes, columns)?;
                Ok(Matrix::new(rows, columns, entries.into_iter().map(f64::from).collect())?)
            }
            _ => Err(FormError::Parts("packed")),
        }
    }

    fn cost_to_merge(&self, shape: [usize; 2]) -> Cost {
        Cost::of_product(shape, 0)
    }

    fn work(&self, _shape: [usize; 2], parameters: u64) -> Work {
        Work::of(parameters, 1, 0)
    }

    fn slots(&self, _of_linear: bool) -> Option<&'static [LiveSlot]> {
        const SLOTS: [LiveSlot; 1] = [LiveSlot { param: BLOCKS, tensor: 0, codec: Codec::Blocks }];
        Some(&SLOTS)
    }

    fn skeleton(
        &self,
        shape: [usize; 2],
        of_linear: bool,
        _indices: &[Vec<i32>],
        device: &Device,
    ) -> Result<Option<NewParams>, FormError> {
        let [first, second] = shape;
        let matrix = if of_linear { [second, first] } else { shape };
        if let Some(problem) = self.problem(matrix) {
            return Err(FormError::Impossible(problem));
        }
        let packed = NewPacked::empty(self.tensor_type, matrix, of_linear, device);
        Ok(Some(NewParams::Packed(packed)))
    }

    fn fmt_for_people(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "blocks of {}", self.tensor_type.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_but_f32_stays_packed_under_its_name() {
        for tensor_type in TensorType::all() {
            let form = Blocks { tensor_type: *tensor_type };
            match tensor_type {
                TensorType::F32 => assert!(form.problem([2, 256]).is_some()),
                other => {
                    assert_eq!(form.suffix().unwrap(), format!("weight.{}", other.name()));
                    assert_eq!(form.problem([2, 256]), None);
                }
            }
        }
        assert!(KINDS.iter().zip(TYPES).all(|(kind, (_, suffix))| kind.suffixes == [suffix]));
    }

    #[test]
    fn blocks_count_as_the_numbers_in_them() {
        let count = |name, shape: &[usize]| parameters_in(name, Dtype::U8, shape);
        assert_eq!(count("a.weight.q4_k", &[3, 144]), 3 * 256);
        assert_eq!(count("weight.q8_0", &[2, 68]), 2 * 64);
        // Not whole blocks, not of a matrix, not blocks at all.
        assert_eq!(count("a.weight.q4_k", &[3, 145]), 3 * 145);
        assert_eq!(count("aweight.q4_k", &[3, 144]), 3 * 144);
        assert_eq!(count("a.mask", &[7]), 7);
        assert_eq!(parameters_in("a.pivots", Dtype::I32, &[7]), 0);
    }
}
