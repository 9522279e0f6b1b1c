//! Tensors that are read from another file than that of their model.

use super::interleaved::Interleaved;
use super::reader::Checkpoint;
use super::tensor_meta::TensorMeta;
use crate::forms::TensorSpec;

impl Checkpoint {
    /// Whether there is a tensor of this name whose type, and whose shape in files, are those of `found`.
    pub(crate) fn has_as_stored(&self, tensor: &str, found: Option<&TensorMeta>) -> bool {
        let (Some(own), Some(found)) = (self.meta(tensor), found) else { return false };
        let (name, dtype, shape) = (tensor.to_string(), own.dtype, own.shape.clone());
        let in_file = self.file_shapes().of(&TensorSpec { name, dtype, shape });
        found.dtype == dtype && found.shape == in_file
    }

    /// The checkpoint with the tensors of a file, opened with [`open_file`](Checkpoint::open_file), in the
    /// place of its own. All of them [are here as stored](Checkpoint::has_as_stored).
    ///
    /// # Panics
    ///
    /// Panics if one of them is not.
    pub(crate) fn with_replaced(mut self, file: Self) -> Self {
        let first = self.shards.len();
        self.shards.extend(file.shards);
        for (tensor, (shard, stored)) in file.tensors {
            let (shard, range) = (first + shard, stored.range);
            let (place, own) = self.tensors.get_mut(&tensor).expect("it was checked");
            (*place, own.range) = (shard, range);
            self.scaled.remove(&tensor);
            self.interleaved.remove(&tensor);
            if self.turned.has(&tensor) {
                self.interleaved.insert(tensor, Interleaved::Turned((shard, stored)));
            }
        }
        self.has_replaced = true;
        self.forget_digests()
    }

    /// Whether it has tensors [in the place of its own](Checkpoint::with_replaced).
    pub(crate) fn has_replaced(&self) -> bool {
        self.has_replaced
    }
}
