//! The shapes that files have where matrices are written in others.

use super::convolutions::Kernels;
use super::reader::Checkpoint;
use super::turned::Turned;
use crate::forms::TensorSpec;

/// Which tensors have another shape in files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FileShapes {
    turned: Turned,
    kernels: Kernels,
}

impl FileShapes {
    /// The shape that a file has for a tensor.
    pub fn of(&self, tensor: &TensorSpec) -> Vec<usize> {
        match self.turned_sides(tensor) {
            Some([rows, cols]) => vec![cols, rows],
            None => self.kernels.shape_in_file(tensor).unwrap_or_else(|| tensor.shape.clone()),
        }
    }

    /// Rows and columns of a matrix whose transpose is in a file.
    pub fn turned_sides(&self, tensor: &TensorSpec) -> Option<[usize; 2]> {
        match tensor.shape[..] {
            [rows, cols] if self.turned.has(&tensor.name) => Some([rows, cols]),
            _ => None,
        }
    }
}

impl From<Turned> for FileShapes {
    fn from(turned: Turned) -> Self {
        Self { turned, kernels: Kernels::default() }
    }
}

impl Checkpoint {
    /// The shapes that files of this model have.
    pub(crate) fn file_shapes(&self) -> FileShapes {
        FileShapes { turned: self.turned.clone(), kernels: self.kernels.clone() }
    }
}
