use std::collections::BTreeSet;

use super::contents::Contents;
use super::error::DifferenceError;
use crate::checkpoint::{Checkpoint, is_norm};
use crate::linalg::Matrix;
use crate::modules::{MatrixName, Selection};
use crate::spectrum::select_matrices;

/// Two models of one shape, of which the difference `to - from` is taken.
#[derive(Debug)]
pub struct Difference<'a> {
    pub(super) from: Contents<'a>,
    pub(super) to: Contents<'a>,
    /// The selected matrices, with their shapes `[out, in]`, in the model's order.
    pub(super) matrices: Vec<(MatrixName, [usize; 2])>,
    /// All other tensors.
    pub(super) others: Vec<String>,
}

impl<'a> Difference<'a> {
    /// Pairs the tensors of two models. Reads no weights.
    ///
    /// # Errors
    ///
    /// [`DifferenceError::Missing`] and [`DifferenceError::Shape`] for models that are not of one
    /// shape, [`DifferenceError::Spectrum`] for a selection that matches nothing, and
    /// [`DifferenceError::Checkpoint`].
    pub fn between(
        from: &'a Checkpoint,
        to: &'a Checkpoint,
        selection: &Selection,
    ) -> Result<Self, DifferenceError> {
        let (from, to) = (Contents::of(from)?, Contents::of(to)?);
        check_shapes(&from, &to)?;
        let all: Vec<(MatrixName, [usize; 2])> =
            from.names().filter_map(|tensor| as_matrix(&from, tensor)).collect();
        let matrices = select_matrices(all, selection, |(name, _)| name)?;
        let selected: BTreeSet<String> = matrices.iter().map(|(name, _)| name.weight()).collect();
        let others = from.names().filter(|tensor| !selected.contains(*tensor));
        let others = others.map(String::from).collect();
        Ok(Self { from, to, matrices, others })
    }

    /// The selected matrices, with their shapes `[out, in]`, in the model's order.
    pub fn matrices(&self) -> &[(MatrixName, [usize; 2])] {
        &self.matrices
    }

    /// Whether the files of what is added to hold some of the selected matrices as `[in, out]`, as those of
    /// GPT-2 do.
    pub fn is_turned(&self) -> bool {
        let checkpoint = self.from.checkpoint();
        self.matrices.iter().any(|(name, _)| checkpoint.turns(&name.weight()))
    }

    /// What is added to.
    pub fn from(&self) -> &Contents<'a> {
        &self.from
    }

    /// What comes out.
    pub fn to(&self) -> &Contents<'a> {
        &self.to
    }

    /// The matrix that is added to, and what has to be added.
    pub(super) fn of(&self, name: &MatrixName) -> Result<(Matrix, Matrix), DifferenceError> {
        let (from, to) = (self.from.matrix(name)?, self.to.matrix(name)?);
        let [rows, cols] = [from.rows(), from.cols()];
        let entries = to.data().iter().zip(from.data()).map(|(to, from)| to - from).collect();
        let difference =
            Matrix::new(rows, cols, entries).map_err(DifferenceError::of_linalg(name))?;
        Ok((from, difference))
    }

    /// Checks that nobody has written to the weights since they were opened.
    pub(super) fn check_unchanged(&self) -> Result<(), DifferenceError> {
        self.from.checkpoint().check_unchanged()?;
        Ok(self.to.checkpoint().check_unchanged()?)
    }
}

/// The matrix whose dense weight has this name, if it may be that of a linear layer.
fn as_matrix(contents: &Contents<'_>, tensor: &str) -> Option<(MatrixName, [usize; 2])> {
    let name = MatrixName::of_weight(tensor).filter(|name| !is_norm(name))?;
    match contents.shape(tensor)?[..] {
        [rows, cols] if rows > 0 && cols > 0 => Some((name, [rows, cols])),
        _ => None,
    }
}

/// Refuses models of which one has other tensors.
fn check_shapes(from: &Contents<'_>, to: &Contents<'_>) -> Result<(), DifferenceError> {
    let dirs = || (from.checkpoint().dir().to_path_buf(), to.checkpoint().dir().to_path_buf());
    for tensor in from.names() {
        let (from_dir, to_dir) = dirs();
        let tensor_name = tensor.to_string();
        let (Some(from_shape), Some(to_shape)) = (from.shape(tensor), to.shape(tensor)) else {
            return Err(DifferenceError::Missing {
                tensor: tensor_name,
                has: from_dir,
                lacks: to_dir,
            });
        };
        if from_shape != to_shape {
            let (from, to, tensor) = (from_dir, to_dir, tensor_name);
            return Err(DifferenceError::Shape { tensor, from, from_shape, to, to_shape });
        }
    }
    match to.names().find(|tensor| from.shape(tensor).is_none()) {
        Some(tensor) => {
            let (lacks, has) = dirs();
            Err(DifferenceError::Missing { tensor: tensor.into(), has, lacks })
        }
        None => Ok(()),
    }
}
