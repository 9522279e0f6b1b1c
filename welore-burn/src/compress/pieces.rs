//! How the tensors of a checkpoint are converted, piece by piece.

use std::borrow::Cow;

use safetensors::Dtype;

use super::error::CompressError;
use super::expert_stack::ExpertStack;
use crate::adapters::{AdapterError, LoraMatrix};
use crate::checkpoint::{Checkpoint, CheckpointError, StoredMatrix, TensorMeta};
use crate::forms::{
    Form, FormError, Rounding, StoredError, StoredForm, TensorSpec, cast_floats, encode_nearest,
};
use crate::linalg::Cost;
use crate::plan::MatrixPlan;
use crate::spectrum::Norms;

/// A conversion of some tensors of a checkpoint, independent of all others.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// Copies a tensor of numbers.
    Copy(&'a str),
    /// Copies a tensor of integers, whatever the type of the numbers.
    Integers(&'a str),
    /// Rounds the numbers of a tensor to another type.
    Cast(&'a str, Dtype),
    /// Compresses a dense matrix to its planned form.
    Compress(&'a MatrixPlan),
    /// Merges the parts of a matrix, and its adapter if it has one, into a dense matrix of a type.
    Merge(StoredMatrix, Dtype, Option<&'a LoraMatrix>),
    /// Makes one tensor of those of all experts of a layer.
    Stack(ExpertStack<'a>),
}

/// The content of the tensors of a piece.
pub(super) struct Content<'a> {
    /// Encoded, in the order of [`Piece::tensors`].
    pub data: Vec<Cow<'a, [u8]>>,
    /// How far the matrix is from what it was, if it was compressed.
    pub error: Option<StoredError>,
}

impl<'a> Piece<'a> {
    /// The name of the matrix or the tensor.
    pub fn name(&self) -> &str {
        match self {
            Self::Copy(tensor) | Self::Integers(tensor) | Self::Cast(tensor, _) => tensor,
            Self::Compress(matrix) => matrix.name.as_str(),
            Self::Merge(matrix, ..) => matrix.name.as_str(),
            Self::Stack(stack) => &stack.tensor().name,
        }
    }

    /// Number of steps that it counts in progress; copies count none.
    pub fn steps(&self) -> usize {
        match self {
            Self::Copy(_) | Self::Integers(_) => 0,
            Self::Stack(stack) => usize::from(stack.parts().iter().any(|part| part.steps() > 0)),
            Self::Cast(..) | Self::Compress(_) | Self::Merge(..) => 1,
        }
    }

    /// The cost of making it.
    pub fn cost(&self, checkpoint: &Checkpoint, norms: &Norms<'_>) -> Cost {
        match self {
            Self::Copy(tensor) if checkpoint.is_made(tensor) => checkpoint
                .meta(tensor)
                .map(|meta| Cost::of_cast(meta.parameters(), meta.bytes()))
                .unwrap_or_default(),
            Self::Copy(tensor) | Self::Integers(tensor) => {
                Cost::of_copy(checkpoint.meta(tensor).map_or(0, |meta| meta.parameters()))
            }
            Self::Cast(tensor, dtype) => {
                let spec = checkpoint.meta(tensor).map(|meta| as_spec(tensor, *dtype, meta));
                spec.map(|spec| Cost::of_cast(spec.entries(), spec.bytes())).unwrap_or_default()
            }
            Self::Compress(matrix) => {
                let making = matrix.form.cost_to_store(matrix.shape, matrix.dtype);
                making + norms.cost(&matrix.name, matrix.shape)
            }
            Self::Merge(matrix, _, adapter) => {
                let cost = matrix.form.cost_to_merge(matrix.shape);
                adapter.map_or(cost, |adapter| cost + cost_of_adding(adapter))
            }
            Self::Stack(stack) => stack.cost(checkpoint, norms),
        }
    }

    /// The tensors that it is made from.
    pub fn sources(&self) -> Vec<String> {
        match self {
            Self::Copy(tensor) | Self::Integers(tensor) | Self::Cast(tensor, _) => {
                vec![tensor.to_string()]
            }
            Self::Compress(matrix) => vec![matrix.name.weight()],
            Self::Merge(matrix, ..) => matrix.tensors().into_iter().map(|spec| spec.name).collect(),
            Self::Stack(stack) => stack.parts().iter().flat_map(Self::sources).collect(),
        }
    }

    /// Identifies the content of the tensors that it is made from.
    pub fn source_digest(&self, checkpoint: &Checkpoint) -> Result<String, CheckpointError> {
        self.sources().iter().map(|tensor| checkpoint.digest(tensor)).collect()
    }

    /// The tensors that it makes.
    pub fn tensors(&self, checkpoint: &Checkpoint) -> Result<Vec<TensorSpec>, CheckpointError> {
        Ok(match self {
            Self::Copy(tensor) | Self::Integers(tensor) => {
                let (meta, _) = checkpoint.raw(tensor)?;
                vec![as_spec(tensor, meta.dtype, meta)]
            }
            Self::Cast(tensor, dtype) => vec![as_spec(tensor, *dtype, checkpoint.raw(tensor)?.0)],
            Self::Compress(matrix) => matrix.form.tensors(&matrix.name, matrix.shape, matrix.dtype),
            Self::Merge(matrix, dtype, _) => {
                Form::dense().tensors(&matrix.name, matrix.shape, *dtype)
            }
            Self::Stack(stack) => vec![stack.tensor().clone()],
        })
    }

    /// Makes the content of its tensors.
    pub fn make(
        &self,
        checkpoint: &'a Checkpoint,
        norms: &Norms<'_>,
        rounding: Rounding,
    ) -> Result<Content<'a>, CompressError> {
        match self {
            Self::Copy(tensor) => {
                checkpoint.check_finite(tensor)?;
                let (_, bytes) = checkpoint.content(tensor)?;
                Ok(Content { data: vec![bytes], error: None })
            }
            Self::Integers(tensor) => {
                let (_, bytes) = checkpoint.raw(tensor)?;
                Ok(Content { data: vec![Cow::Borrowed(bytes)], error: None })
            }
            Self::Cast(tensor, dtype) => {
                checkpoint.check_finite(tensor)?;
                let (meta, bytes) = checkpoint.content(tensor)?;
                let data = cast_floats(&bytes, meta.dtype, *dtype);
                let data = data.map_err(encoding(tensor.to_string()))?;
                Ok(Content { data: vec![Cow::Owned(data)], error: None })
            }
            Self::Compress(matrix) => {
                let dense = checkpoint.read_matrix(&matrix.name.weight())?;
                let norm = norms.of(&matrix.name)?;
                let made = matrix.form.make_stored(&dense, &norm, matrix.dtype, rounding);
                drop(dense);
                encode(matrix, &made.map_err(CompressError::of_making(&matrix.name))?)
            }
            Self::Merge(matrix, dtype, adapter) => {
                let merged = checkpoint.read_merged(matrix)?;
                let merged = match adapter {
                    Some(adapter) => adapter.added_to(merged).map_err(|problem| {
                        AdapterError::Sum { matrix: matrix.name.clone(), problem }
                    })?,
                    None => merged,
                };
                let data = encode_nearest(merged.data().iter().copied(), *dtype);
                let data = data.map_err(encoding(matrix.name.weight()))?;
                Ok(Content { data: vec![Cow::Owned(data)], error: None })
            }
            Self::Stack(stack) => {
                let data = stack.content(checkpoint, norms, rounding)?;
                Ok(Content { data: vec![Cow::Owned(data)], error: None })
            }
        }
    }
}

/// The cost of adding an adapter to a matrix, which is in memory anyway: three more of that size.
fn cost_of_adding(adapter: &LoraMatrix) -> Cost {
    let entries = adapter.shape().iter().fold(1u64, |all, side| all.saturating_mul(*side as u64));
    Cost {
        bytes: entries.saturating_mul(3 * size_of::<f64>() as u64),
        operations: entries.saturating_mul(2 * adapter.rank() as u64),
    }
}

fn as_spec(name: &str, dtype: Dtype, meta: &TensorMeta) -> TensorSpec {
    TensorSpec { name: name.into(), dtype, shape: meta.shape.clone() }
}

/// The content of the tensors of a compressed matrix.
pub(super) fn encode<'a>(
    matrix: &MatrixPlan,
    made: &StoredForm,
) -> Result<Content<'a>, CompressError> {
    let specs = matrix.form.tensors(&matrix.name, matrix.shape, matrix.dtype);
    let parts = made.parts.iter().zip(specs);
    let data = parts.map(|(part, spec)| {
        Ok(Cow::Owned(part.encode(matrix.dtype).map_err(encoding(spec.name))?))
    });
    let data = data.collect::<Result<_, CompressError>>()?;
    Ok(Content { data, error: Some(made.error) })
}

fn encoding(tensor: String) -> impl FnOnce(FormError) -> CompressError {
    move |source| CheckpointError::Encoding { tensor, source }.into()
}
