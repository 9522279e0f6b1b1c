//! Where the bytes of the tensors of a file come from.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::Dtype;

use super::error::GgufError;
use crate::checkpoint::{Checkpoint, CheckpointError, StoredMatrix};
use crate::forms::{FormError, Precision, cast_floats, encode_nearest};
use crate::ggml::{TensorType, WrittenType};
use crate::model::OpenedModel;
use crate::named::Named;
use crate::progress::Progress;

/// A tensor that will be in a file, as the model directory has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Its name in the model directory; that of the dense weight for a matrix in any form.
    pub name: String,
    /// Its shape, `[out, in]` for a matrix.
    pub shape: Vec<usize>,
    /// The type that it will have in the file.
    pub dtype: WrittenType,
}

/// Gives the bytes of tensors, one after the other.
///
/// A caller that quantizes tensors itself implements it, and asks a [`CheckpointSource`] for the
/// others.
pub trait TensorSource {
    /// Refuses a tensor that it cannot give, before anything is written.
    ///
    /// # Errors
    ///
    /// [`GgufError`].
    fn check(&self, tensor: &GgufTensor) -> Result<(), GgufError> {
        let _ = tensor;
        Ok(())
    }

    /// The entries of a tensor as its type stores them, row-major, with the rows in the order of the
    /// model directory: llama.cpp's order is made from it later. What takes long asks `progress` whether
    /// to go on ([`Progress::check`]).
    ///
    /// # Errors
    ///
    /// [`GgufError`].
    fn bytes(
        &self,
        tensor: &GgufTensor,
        progress: &mut dyn Progress,
    ) -> Result<Cow<'_, [u8]>, GgufError>;

    /// Releases what a tensor was made from: it has been written.
    fn release(&self, tensor: &GgufTensor) {
        let _ = tensor;
    }
}

/// The tensors of a model directory, rounded to the nearest number of their type. A matrix in
/// another form than the dense one is multiplied together, in f64.
#[derive(Debug)]
pub struct CheckpointSource<'a> {
    checkpoint: &'a Checkpoint,
    /// Matrices that are not dense, by the names of their dense weights.
    compressed: BTreeMap<String, &'a StoredMatrix>,
}

impl<'a> CheckpointSource<'a> {
    /// The tensors of an opened model.
    pub fn new(opened: &'a OpenedModel) -> Self {
        let named = opened.compressed.iter().map(|matrix| (matrix.name.weight(), matrix));
        Self { checkpoint: &opened.checkpoint, compressed: named.collect() }
    }

    /// The type in which a tensor is stored; that of its numbers for a matrix in another form. The
    /// experts of gpt-oss may be in MXFP4.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::TensorMissing`], and [`CheckpointError::Dtype`] for integers.
    pub fn stored_type(&self, name: &str) -> Result<WrittenType, CheckpointError> {
        let dtype = match self.compressed.get(name) {
            Some(matrix) => matrix.dtype,
            None if self.checkpoint.is_mxfp4(name) => return Ok(WrittenType::Mxfp4),
            None => self.checkpoint.raw(name)?.0.dtype,
        };
        match dtype {
            Dtype::F64 | Dtype::F32 => Ok(TensorType::F32.into()),
            Dtype::F16 => Ok(TensorType::F16.into()),
            Dtype::BF16 => Ok(TensorType::Bf16.into()),
            dtype => {
                let (dir, tensor) = (self.checkpoint.dir().into(), name.into());
                Err(CheckpointError::Dtype { dir, tensor, dtype })
            }
        }
    }
}

impl TensorSource for CheckpointSource<'_> {
    fn check(&self, tensor: &GgufTensor) -> Result<(), GgufError> {
        match tensor.dtype.rounded() {
            Some(dtype) => float_of(tensor, dtype).map(drop),
            None if self.checkpoint.is_mxfp4(&tensor.name) => Ok(()),
            None => Err(no_blocks(tensor)),
        }
    }

    fn bytes(
        &self,
        tensor: &GgufTensor,
        _progress: &mut dyn Progress,
    ) -> Result<Cow<'_, [u8]>, GgufError> {
        let Some(dtype) = tensor.dtype.rounded() else {
            // All numbers have to be finite, whatever they are stored as.
            self.checkpoint.check_finite(&tensor.name)?;
            let blocks = self.checkpoint.mxfp4_blocks(&tensor.name);
            return blocks.map(Cow::Owned).ok_or_else(|| no_blocks(tensor));
        };
        let dtype = float_of(tensor, dtype)?;
        let encoding =
            |source: FormError| CheckpointError::Encoding { tensor: tensor.name.clone(), source };
        if let Some(matrix) = self.compressed.get(&tensor.name) {
            let merged = self.checkpoint.read_merged(matrix)?;
            let data = encode_nearest(merged.data().iter().copied(), dtype).map_err(encoding)?;
            return Ok(Cow::Owned(data));
        }
        self.checkpoint.check_finite(&tensor.name)?;
        let (meta, bytes) = self.checkpoint.content(&tensor.name)?;
        if meta.dtype == dtype {
            return Ok(bytes);
        }
        Ok(Cow::Owned(cast_floats(&bytes, meta.dtype, dtype).map_err(encoding)?))
    }

    fn release(&self, tensor: &GgufTensor) {
        match self.compressed.get(&tensor.name) {
            None => self.checkpoint.release(&tensor.name),
            Some(matrix) => {
                matrix.tensors().iter().for_each(|part| self.checkpoint.release(&part.name));
            }
        }
    }
}

/// The type of floats that a tensor will have.
fn float_of(tensor: &GgufTensor, dtype: TensorType) -> Result<Dtype, GgufError> {
    let float = Precision::all().iter().find(|float| TensorType::from(**float) == dtype);
    let blocks = || GgufError::Blocks { tensor: tensor.name.clone(), dtype };
    float.map(|float| float.dtype()).ok_or_else(blocks)
}

/// Refuses to give blocks that a model does not have.
fn no_blocks(tensor: &GgufTensor) -> GgufError {
    let reason = format!("is not in {} in the directory", tensor.dtype.name());
    GgufError::Choice { tensor: tensor.name.clone(), reason }
}

impl From<Precision> for TensorType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
            Precision::Bf16 => Self::Bf16,
        }
    }
}
