use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::files::{FileError, OutputDir};
use crate::forms::TensorSpec;
use crate::progress::Interrupted;

/// Why changes of a model can be neither saved nor applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangesError {
    /// A model, or the tensors of the changes, cannot be read or written.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// A file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
    /// Only one of the models has a tensor.
    #[error("{lacks} has no tensor `{tensor}`, which {has} has", lacks = lacks.display(), has = has.display())]
    Missing {
        /// The tensor.
        tensor: String,
        /// The model that has it.
        has: PathBuf,
        /// The one that does not.
        lacks: PathBuf,
    },
    /// A tensor has another type or shape in the tuned model.
    #[error(
        "tensor `{tensor}` is {expected_dtype} {expected_shape:?} in {base}, but {dtype} {shape:?} in {tuned}",
        tensor = found.name,
        expected_dtype = expected.dtype,
        expected_shape = expected.shape,
        dtype = found.dtype,
        shape = found.shape,
        base = base.display(),
        tuned = tuned.display()
    )]
    Kind {
        /// The base.
        base: PathBuf,
        /// The tensor there.
        expected: Box<TensorSpec>,
        /// The tuned model.
        tuned: PathBuf,
        /// The tensor there.
        found: Box<TensorSpec>,
    },
    /// Nothing differs.
    #[error("{tuned} has the same numbers as {base}", tuned = tuned.display(), base = base.display())]
    Same {
        /// The base.
        base: PathBuf,
        /// The tuned model.
        tuned: PathBuf,
    },
    /// A file of saved changes is not there.
    #[error("{path}: no such file", path = path.display())]
    NoChanges {
        /// The file.
        path: PathBuf,
    },
    /// A file of saved changes is not one, or is damaged.
    #[error("{path}: {reason}", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The changes belong to another model.
    #[error(
        "{changes} belongs to another model than {base}: `{tensor}` is not the same in both",
        changes = changes.display(),
        base = base.display()
    )]
    OtherBase {
        /// The directory of the changes.
        changes: PathBuf,
        /// The model.
        base: PathBuf,
        /// A tensor that differs, or that only one of them has.
        tensor: String,
    },
}

impl ChangesError {
    /// Replaces the hidden path of the output directory by its target.
    pub fn about(self, output: &OutputDir) -> Self {
        match self {
            Self::File(error) => Self::File(output.name_target(error)),
            Self::Checkpoint(error) => Self::Checkpoint(error.about(output)),
            other => other,
        }
    }
}
