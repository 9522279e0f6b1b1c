use std::fmt;
use std::path::PathBuf;

use safetensors::Dtype;

use crate::linalg::LinalgError;
use crate::progress::Interrupted;

/// What can be wrong with a model directory, read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The directory or a file in it is missing.
    #[error("{path}: no such {what}", path = path.display())]
    Missing {
        /// What was looked for.
        path: PathBuf,
        /// `model directory`, `model weights (...)`, ...
        what: &'static str,
    },
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Its reason.
        source: std::io::Error,
    },
    /// A safetensors file that is truncated or not one.
    #[error("{path}: not a valid safetensors file: {reason}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// A shard index that is broken or points outside its directory.
    #[error("{path}: {reason}", path = path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that is not in the checkpoint.
    #[error("{path}: tensor `{tensor}` is missing", path = dir.display())]
    TensorMissing {
        /// The model directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
    },
    /// A tensor of a type that weights cannot have here.
    #[error("{path}: tensor `{tensor}` is {dtype}; F32, F16, BF16 and F64 are supported", path = dir.display())]
    Dtype {
        /// The model directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
    },
    /// A tensor that should be a matrix and is not.
    #[error("{path}: tensor `{tensor}` has shape {shape:?}, not that of a matrix", path = dir.display())]
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
        /// Position of the first such entry, row-major.
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
    /// A weight whose layout is transposed in records.
    #[error(
        "`{path}` has LinearLayout::Col, which does not go with checkpoints; use LinearLayout::Row"
    )]
    Layout {
        /// Path of the parameter.
        path: String,
    },
    /// Pivots that are no different rows of their matrix.
    #[error("{path}: tensor `{tensor}`: {reason}", path = dir.display())]
    Pivots {
        /// The model directory.
        dir: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A value does not fit the type it should be stored in.
    #[error("tensor `{tensor}`: {value:e} does not fit {dtype}")]
    Overflow {
        /// The tensor.
        tensor: String,
        /// The value.
        value: f64,
        /// The type.
        dtype: Dtype,
    },
    /// A tensor's decomposition failed.
    #[error("tensor `{tensor}`: {source}")]
    Linalg {
        /// The tensor.
        tensor: String,
        /// Why.
        source: LinalgError,
    },
    /// The output directory exists and was not to be replaced.
    #[error("{path} exists already", path = path.display())]
    OutputExists {
        /// The directory.
        path: PathBuf,
    },
    /// A directory was to be written where something else is, or inside of it.
    #[error("{path} is not a directory", path = path.display())]
    NotADirectory {
        /// The file, or the link that leads nowhere.
        path: PathBuf,
    },
    /// Another process is writing the same output directory.
    #[error("{path}: another process is writing it", path = path.display())]
    OutputBusy {
        /// The directory.
        path: PathBuf,
    },
    /// What stands where an unfinished output is kept was not made here, so it stays.
    #[error("{path} is in the way, and nothing that an unfinished run left", path = path.display())]
    PartialForeign {
        /// Where an unfinished output would be kept.
        path: PathBuf,
    },
    /// Tensors that do not make valid files.
    #[error("the tensors cannot be stored: {reason}")]
    NotStorable {
        /// Why.
        reason: String,
    },
    /// The output path is something that is never replaced.
    #[error("{path} is not a model directory, so it is not replaced", path = path.display())]
    OutputForeign {
        /// The path.
        path: PathBuf,
    },
    /// The user stopped the work.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl CheckpointError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// One difference between a checkpoint and a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorProblem {
    /// The module needs it, the checkpoint has it not.
    Missing {
        /// The tensor.
        tensor: String,
        /// The unused tensor with the most similar name.
        similar: Option<String>,
    },
    /// The checkpoint has it, the module has no use for it.
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

/// The first few problems and how many more there are: an error is one line.
fn summary(problems: &[TensorProblem]) -> String {
    const SHOWN: usize = 3;
    let mut text: Vec<String> = problems.iter().take(SHOWN).map(ToString::to_string).collect();
    if problems.len() > SHOWN {
        text.push(format!("and {} more", problems.len() - SHOWN));
    }
    text.join("; ")
}
