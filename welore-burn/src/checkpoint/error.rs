use std::fmt;
use std::path::PathBuf;

use safetensors::Dtype;

use super::foreign::Quantizer;
use crate::files::{FileError, OutputDir};
use crate::forms::{Form, FormError};
use crate::linalg::LinalgError;
use crate::modules::MatrixName;
use crate::progress::Interrupted;

/// What can be wrong with a model directory, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file or directory is missing.
    #[error("{path}: no such {what}", path = path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// What it should be.
        what: MissingKind,
    },
    /// A file cannot be read or written, or the output path is not free.
    #[error("{0}")]
    File(#[from] FileError),
    /// A link out of a model directory, which is not followed where its content would be published.
    #[error("{link} leads out of the model directory, to {target}", link = link.display(), target = target.display())]
    LeadsOut {
        /// The link.
        link: PathBuf,
        /// What it leads to.
        target: PathBuf,
    },
    /// A safetensors file is truncated, or is not one.
    #[error("{path}: not a valid safetensors file: {reason}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        reason: String,
    },
    /// A shard index is broken, or points outside its directory.
    #[error("{path}: {reason}", path = path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is not in the checkpoint.
    #[error("{path}: tensor `{tensor}` is missing", path = dir.display())]
    TensorMissing {
        /// The model directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The names of the tensors begin with something before the model's, and it is not known what.
    #[error("{path}: the names of its tensors begin with `{prefix}`, as in `{tensor}`", path = dir.display())]
    Prefixed {
        /// The model directory.
        dir: PathBuf,
        /// What is before the name that the model gives.
        prefix: String,
        /// One of the tensors.
        tensor: String,
    },
    /// A tensor has a type that is not supported for weights.
    #[error("{path}: tensor `{tensor}` is {dtype}; F32, F16, BF16 and F64 are supported", path = dir.display())]
    Dtype {
        /// The model directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
    },
    /// Numbers of 8 bits have no scales.
    #[error("{path}: tensor `{tensor}` is F8_E4M3, and there is neither `{tensor}_scale_inv` nor `{tensor}_scale`", path = dir.display())]
    Unscaled {
        /// The model directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// The scales of a tensor do not fit it.
    #[error("{path}: the scales of tensor `{tensor}` {shape:?} do not fit it: they are {dtype} {scales:?}", path = dir.display())]
    Scales {
        /// The model directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The shape of the scales.
        scales: Vec<usize>,
        /// Their type.
        dtype: Dtype,
    },
    /// Another program has quantized the weights, in a way that is not read.
    #[error("{path}: the weights are quantized by {by}, as in `{tensor}`", path = dir.display())]
    Quantized {
        /// The model directory.
        dir: PathBuf,
        /// How.
        by: Quantizer,
        /// One of the tensors.
        tensor: String,
    },
    /// Beside the weights, or in their place, there is an adapter.
    #[error("{path}: a LoRA adapter that is not merged, as in `{tensor}`", path = dir.display())]
    Adapter {
        /// The model directory.
        dir: PathBuf,
        /// One of its tensors.
        tensor: String,
    },
    /// A tensor should be a matrix, but is not.
    #[error("{path}: tensor `{tensor}` has shape {shape:?}, but must be a matrix", path = dir.display())]
    NotMatrix {
        /// The model directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A weight is infinite or not a number.
    #[error("{path}: tensor `{tensor}` holds {value} at flat index {index}", path = dir.display())]
    NotFinite {
        /// The model directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
        /// Position of the first such entry, in row-major order.
        index: usize,
        /// The entry.
        value: f64,
    },
    /// The tensors of the checkpoint are not those of the module.
    #[error("{path}: the tensors do not fit the model: {}", summary(problems), path = dir.display())]
    Mismatch {
        /// The model directory.
        dir: PathBuf,
        /// Every difference found.
        problems: Vec<TensorProblem>,
    },
    /// A matrix cannot be stored in its form, or read from it.
    #[error("{path}: matrix `{matrix}`: {source}", path = dir.display())]
    Form {
        /// The model directory.
        dir: PathBuf,
        /// The matrix.
        matrix: MatrixName,
        /// Why.
        source: FormError,
    },
    /// The plan of a compressed directory cannot be read.
    #[error("{path}: not a plan: {reason}", path = path.display())]
    Plan {
        /// The plan file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The plan of a compressed directory and its tensors disagree.
    #[error("{path}: `{name}` is {planned} in the plan and {stored} in the weights", path = path.display())]
    PlanDisagrees {
        /// The plan file.
        path: PathBuf,
        /// The matrix.
        name: MatrixName,
        /// The form in the plan.
        planned: Form,
        /// The form of the stored tensors.
        stored: Form,
    },
    /// A value does not fit the type in which it should be stored.
    #[error("tensor `{tensor}`: {source}")]
    Encoding {
        /// The tensor.
        tensor: String,
        /// Why.
        source: FormError,
    },
    /// A tensor's decomposition failed.
    #[error("tensor `{tensor}`: {source}")]
    Linalg {
        /// The tensor.
        tensor: String,
        /// Why.
        source: LinalgError,
    },
    /// The tensors do not fit into valid files.
    #[error("the tensors cannot be stored: {reason}")]
    NotStorable {
        /// Why.
        reason: String,
    },
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

impl CheckpointError {
    /// Replaces the hidden path of the output directory by its target.
    pub fn about(self, output: &OutputDir) -> Self {
        self.map_file(|error| output.name_target(error))
    }

    /// Changes the error of a file, such as the path that it names.
    pub(crate) fn map_file(self, change: impl FnOnce(FileError) -> FileError) -> Self {
        match self {
            Self::File(error) => Self::File(change(error)),
            other => other,
        }
    }
}

/// What is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingKind {
    /// The directory of a model.
    Directory,
    /// The weights in it.
    Weights,
    /// A file that a shard index names.
    Shard,
    /// Another file.
    File,
}

impl fmt::Display for MissingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "model directory",
            Self::Weights => "file, and no model.safetensors.index.json beside it",
            Self::Shard => "file, though the index names it",
            Self::File => "file",
        })
    }
}

/// One difference between a checkpoint and a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorProblem {
    /// The module needs it, but the checkpoint does not have it.
    Missing {
        /// The tensor.
        tensor: String,
        /// The unused tensor with the most similar name.
        similar: Option<String>,
    },
    /// The checkpoint has it, but the module does not use it.
    Unused {
        /// The tensor.
        tensor: String,
    },
    /// Both have it, in different shapes.
    Shape {
        /// The tensor.
        tensor: String,
        /// Shape in the module.
        expected: Vec<usize>,
        /// Shape in the checkpoint.
        found: Vec<usize>,
    },
}

impl fmt::Display for TensorProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { tensor, similar: None } => write!(f, "`{tensor}` is missing"),
            Self::Missing { tensor, similar: Some(similar) } => {
                write!(f, "`{tensor}` is missing (is `{similar}` meant?)")
            }
            Self::Unused { tensor } => write!(f, "`{tensor}` is not used"),
            Self::Shape { tensor, expected, found } => {
                write!(f, "`{tensor}` has shape {found:?} instead of {expected:?}")
            }
        }
    }
}

/// The first few problems, and the number of the rest: an error is one line.
fn summary(problems: &[TensorProblem]) -> String {
    const SHOWN: usize = 3;
    let mut text: Vec<String> = problems.iter().take(SHOWN).map(ToString::to_string).collect();
    if problems.len() > SHOWN {
        text.push(format!("and {} more", problems.len() - SHOWN));
    }
    text.join("; ")
}
