use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;

use crate::checkpoint::{Checkpoint, CheckpointError, StoredMatrix};
use crate::linalg::Matrix;
use crate::modules::MatrixName;

/// The tensors of a checkpoint as if all of its matrices were dense: each matrix has the name of its
/// dense weight, and the entries that the tensors of its form stand for.
#[derive(Debug)]
pub struct Contents<'a> {
    checkpoint: &'a Checkpoint,
    /// The matrices that are not dense, by the names of their dense weights.
    matrices: BTreeMap<String, StoredMatrix>,
    /// All names, in the model's order.
    names: Vec<String>,
}

impl<'a> Contents<'a> {
    /// Those of a checkpoint. Reads no weights.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::compressed_matrices`].
    pub fn of(checkpoint: &'a Checkpoint) -> Result<Self, CheckpointError> {
        let (mut matrices, mut parts) = (BTreeMap::new(), BTreeMap::new());
        for matrix in checkpoint.compressed_matrices()? {
            let weight = matrix.name.weight();
            parts.extend(matrix.tensors().into_iter().map(|part| (part.name, weight.clone())));
            matrices.insert(weight, matrix);
        }
        let mut seen = BTreeSet::new();
        let dense = |tensor: &str| parts.get(tensor).cloned().unwrap_or_else(|| tensor.into());
        let names = checkpoint.names().map(dense);
        let names = names.filter(|name| seen.insert(name.clone())).collect();
        Ok(Self { checkpoint, matrices, names })
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// The names of all tensors, in the model's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The shape of a tensor, `[out, in]` of a matrix; `None` if there is none of this name.
    pub fn shape(&self, tensor: &str) -> Option<Vec<usize>> {
        match self.matrices.get(tensor) {
            Some(matrix) => Some(matrix.shape.to_vec()),
            None => Some(self.checkpoint.meta(tensor)?.shape.clone()),
        }
    }

    /// Bytes in which a tensor is stored; 0 if there is none of this name.
    pub fn stored_bytes(&self, tensor: &str) -> u64 {
        let of = |tensor: &str| self.checkpoint.meta(tensor).map_or(0, |meta| meta.bytes());
        match self.matrices.get(tensor) {
            Some(matrix) => matrix.tensors().iter().map(|part| of(&part.name)).sum(),
            None => of(tensor),
        }
    }

    /// Whether a tensor holds integers, which are no parameters.
    pub(super) fn is_integer(&self, tensor: &str) -> bool {
        use Dtype as T;
        let is_float = |dtype: Dtype| matches!(dtype, T::F64 | T::F32 | T::F16 | T::BF16);
        let meta = self.checkpoint.meta(tensor).filter(|_| !self.matrices.contains_key(tensor));
        meta.is_some_and(|meta| !is_float(meta.dtype))
    }

    /// The digest of a tensor that is stored as it is; `None` if it is in another form, or missing.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::digest`].
    pub fn digest(&self, tensor: &str) -> Result<Option<String>, CheckpointError> {
        match self.matrices.contains_key(tensor) || self.checkpoint.meta(tensor).is_none() {
            true => Ok(None),
            false => self.checkpoint.digest(tensor).map(Some),
        }
    }

    /// A matrix `[out, in]`, merged if it is not dense.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::read_matrix`] and [`Checkpoint::read_merged`].
    pub fn matrix(&self, name: &MatrixName) -> Result<Matrix, CheckpointError> {
        let weight = name.weight();
        let matrix = match self.matrices.get(&weight) {
            Some(matrix) => self.checkpoint.read_merged(matrix)?,
            None => self.checkpoint.read_matrix(&weight)?,
        };
        self.release(&weight);
        Ok(matrix)
    }

    /// The entries of a tensor, row-major, rounded to f32.
    ///
    /// # Errors
    ///
    /// Those of [`Checkpoint::read_f32`] and [`Checkpoint::read_merged`].
    pub fn values(&self, tensor: &str) -> Result<Vec<f32>, CheckpointError> {
        let values = match self.matrices.get(tensor) {
            Some(matrix) => {
                let merged = self.checkpoint.read_merged(matrix)?.into_data();
                merged.into_iter().map(|x| x as f32).collect()
            }
            None => self.checkpoint.read_f32(tensor)?,
        };
        self.release(tensor);
        Ok(values)
    }

    /// Releases the pages of a tensor.
    fn release(&self, tensor: &str) {
        match self.matrices.get(tensor) {
            Some(matrix) => {
                matrix.tensors().iter().for_each(|part| self.checkpoint.release(&part.name));
            }
            None => self.checkpoint.release(tensor),
        }
    }
}
