use std::sync::Arc;

use burn::tensor::Device;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::attach::NewParams;
use super::block_names::{BlockNames, NAMES, sets_of_blocks, type_in};
use super::error::FormError;
use super::factors::{U, V};
use super::form::{Form, FormAndShape, Kind, Shapes};
use super::matrix_form::{Made, MatrixForm};
use super::packed::{BASE, NewPacked, code};
use super::part::{Part, PartKind, PartSpec};
use super::rounding::{error_and_size, round_into, unpacked};
use super::slots::{Codec, LiveSlot};
use super::work::Work;
use crate::ggml::TensorType;
use crate::linalg::{Cost, Feedback, Matrix, Weighting};
use crate::named::Named;

/// The blocks of one of llama.cpp's types, in `X.weight.TYPE [out, bytes of a row]`, U8: the bytes
/// that a GGUF file has, with the rows in the order of the model directory; or by columns, in
/// `X.weight_t.TYPE [in, bytes of a column]`. What is computed with are the numbers that llama.cpp
/// computes with. They do not train.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blocks {
    /// The type. F32 has no blocks; it is the dense form.
    #[serde(rename = "type")]
    pub tensor_type: TensorType,
    /// Whether blocks are parts of columns, not of rows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub turned: bool,
}

pub(super) const KIND: Kind = Kind { stored, live, sets: sets_of_blocks };

fn stored(shape_of: &Shapes<'_>) -> Option<FormAndShape> {
    let (blocks, shape) = stored_blocks(shape_of)?;
    let in_blocks = NAMES.iter().flat_map(|of| [of.right, of.left]);
    let has_factor = in_blocks.chain([V, U]).any(|factor| shape_of(factor).is_some());
    (!has_factor).then_some((Form::Blocks(blocks), shape))
}

/// The blocks that hold all entries of a matrix, and its shape.
pub(super) fn stored_blocks(shape_of: &Shapes<'_>) -> Option<(Blocks, [usize; 2])> {
    NAMES.iter().find_map(|names| {
        [(names.whole, false), (names.turned, true)].into_iter().find_map(|(suffix, turned)| {
            let shape = shape_of(suffix)?.try_into().ok()?;
            let blocks = Blocks { tensor_type: names.tensor_type, turned };
            Some((blocks, blocks.matrix_shape(shape)?))
        })
    })
}

fn live(shape_of: &Shapes<'_>, of_linear: bool) -> Option<FormAndShape> {
    let (base, None) = code::types_of(&shape_of("")?)? else { return None };
    let blocks = base?;
    let shape = blocks.matrix_shape(shape_of(BASE)?.try_into().ok()?)?;
    Some((Form::Blocks(blocks), live_shape(shape, of_linear)))
}

/// The shape `[out, in]` of a weight whose tensor has this shape: that of a linear layer is
/// `[out, in]`, an embedding has a row for each input.
pub(super) fn live_shape([rows, columns]: [usize; 2], of_linear: bool) -> [usize; 2] {
    if of_linear { [rows, columns] } else { [columns, rows] }
}

/// Number of parameters in a tensor of a checkpoint: as many as it has entries, except that indices
/// are none, and blocks are as many as they are unpacked.
pub(crate) fn parameters_in(tensor: &str, dtype: Dtype, shape: &[usize]) -> u64 {
    let product = |shape: &[usize]| shape.iter().map(|n| *n as u64).fold(1, u64::saturating_mul);
    match (dtype, shape) {
        (Dtype::I32, _) => 0,
        (Dtype::U8, [rows, row_bytes]) => {
            let blocks = type_in(tensor).map(|of| Blocks { tensor_type: of, turned: false });
            let matrix = blocks.and_then(|blocks| blocks.matrix_shape([*rows, *row_bytes]));
            product(matrix.as_ref().map_or(shape, |matrix| &matrix[..]))
        }
        _ => product(shape),
    }
}

impl Blocks {
    /// The name of the tensor. Where [`problem`](MatrixForm::problem) has something to say, nothing is
    /// stored.
    fn suffix(self) -> &'static str {
        match BlockNames::of(self.tensor_type) {
            Some(names) if self.turned => names.turned,
            Some(names) => names.whole,
            None => "weight",
        }
    }

    /// `[rows, bytes of a row]` of the tensor of a matrix.
    pub(super) fn tensor_shape(self, [rows, columns]: [usize; 2]) -> [usize; 2] {
        let (rows, columns) = if self.turned { (columns, rows) } else { (rows, columns) };
        [rows, self.tensor_type.row_bytes(columns).unwrap_or(0)]
    }

    /// The shape of a matrix, from that of its tensor. `None` if its rows are not whole blocks.
    pub(super) fn matrix_shape(self, [rows, row_bytes]: [usize; 2]) -> Option<[usize; 2]> {
        let bytes = self.tensor_type.block_bytes();
        let columns = (row_bytes / bytes).checked_mul(self.tensor_type.block_len())?;
        let shape = if self.turned { [columns, rows] } else { [rows, columns] };
        row_bytes.is_multiple_of(bytes).then_some(shape)
    }

    /// The bytes of a matrix in a norm; see [`round_into`].
    pub(super) fn round(
        self,
        matrix: &Matrix,
        feedback: &[Option<Arc<Feedback>>; 2],
    ) -> Result<Vec<u8>, FormError> {
        let feedback = feedback.each_ref().map(|of| of.as_deref());
        round_into(self.tensor_type, self.turned, matrix, feedback)
    }

    /// The matrix that bytes stand for.
    pub(super) fn unpack(self, shape: [usize; 2], bytes: &[u8]) -> Result<Matrix, FormError> {
        unpacked(self.tensor_type, self.turned, shape, bytes)
    }

    /// Its tensor.
    pub(super) fn part(self, shape: [usize; 2]) -> PartSpec {
        let kind = PartKind::Blocks(self.tensor_type);
        PartSpec { suffix: self.suffix(), shape: self.tensor_shape(shape).into(), kind }
    }
}

impl MatrixForm for Blocks {
    fn rank(&self) -> Option<usize> {
        None
    }

    fn problem(&self, [rows, columns]: [usize; 2]) -> Option<String> {
        let (name, block) = (self.tensor_type.name(), self.tensor_type.block_len());
        if BlockNames::of(self.tensor_type).is_none() {
            return Some(format!("{name} has no blocks"));
        }
        let (what, len) = if self.turned { ("columns", rows) } else { ("rows", columns) };
        let fills = len.is_multiple_of(block);
        (!fills).then(|| format!("{what} of {len} entries; {name} needs a multiple of {block}"))
    }

    fn parameters(&self, [rows, columns]: [usize; 2]) -> u64 {
        (rows as u64).saturating_mul(columns as u64)
    }

    fn tensors(&self, shape: [usize; 2]) -> Vec<PartSpec> {
        vec![self.part(shape)]
    }

    fn make(&self, matrix: &Matrix, norm: &Weighting) -> Result<Made, FormError> {
        let best = norm.best(matrix)?;
        let bytes = self.round(&best, &norm.feedback()?)?;
        let stored = self.unpack([matrix.rows(), matrix.cols()], &bytes)?;
        let (relative_error, size) = error_and_size(&norm.of_best(), &best, &stored)?;
        Ok(Made { parts: vec![Part::Blocks(bytes)], relative_error, size })
    }

    fn cost_to_make(&self, [rows, columns]: [usize; 2]) -> Cost {
        // Products with what the shorter side is made up for by; embeddings have a very long one.
        Cost::of_product([rows, columns], rows.min(columns))
    }

    fn merge(&self, shape: [usize; 2], parts: Vec<Part>) -> Result<Matrix, FormError> {
        match <[Part; 1]>::try_from(parts) {
            Ok([Part::Blocks(bytes)]) => self.unpack(shape, &bytes),
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
        const SLOTS: [LiveSlot; 1] = [LiveSlot { param: BASE, tensor: 0, codec: Codec::Blocks }];
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
        Ok(Some(NewPacked::empty(Some(*self), None, shape, of_linear, device)))
    }

    fn fmt_for_people(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let by = if self.turned { ", by columns" } else { "" };
        write!(f, "blocks of {}{by}", self.tensor_type.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_or_columns_have_to_fill_blocks() {
        let problem = |tensor_type, turned, shape| Blocks { tensor_type, turned }.problem(shape);
        assert!(problem(TensorType::F32, false, [2, 256]).is_some());
        assert_eq!(problem(TensorType::Q4K, false, [2, 256]), None);
        assert_eq!(problem(TensorType::Q4K, true, [256, 2]), None);
        assert!(problem(TensorType::Q4K, false, [256, 2]).unwrap().starts_with("rows of 2"));
        assert!(problem(TensorType::Q4K, true, [2, 256]).unwrap().starts_with("columns of 2"));
    }

    #[test]
    fn blocks_count_as_the_numbers_in_them() {
        let count = |name, shape: &[usize]| parameters_in(name, Dtype::U8, shape);
        assert_eq!(count("a.weight.q4_k", &[3, 144]), 3 * 256);
        assert_eq!(count("weight.q8_0", &[2, 68]), 2 * 64);
        assert_eq!(count("a.weight_t.q8_0", &[2, 68]), 2 * 64);
        assert_eq!(count("a.U.weight_t.q8_0", &[2, 68]), 2 * 64);
        // Not whole blocks, not of a matrix, not blocks at all.
        assert_eq!(count("a.weight.q4_k", &[3, 145]), 3 * 145);
        assert_eq!(count("aweight.q4_k", &[3, 144]), 3 * 144);
        assert_eq!(count("a.mask", &[7]), 7);
        assert_eq!(parameters_in("a.pivots", Dtype::I32, &[7]), 0);
    }
}
