use std::path::PathBuf;

use super::methods::Trainable;
use crate::adapters::AdapterError;
use crate::checkpoint::CheckpointError;
use crate::eval::EvalError;
use crate::files::FileError;
use crate::forms::FormError;
use crate::modules::MatrixName;
use crate::named::Named;
use crate::progress::Interrupted;
use crate::words::number_of;

/// Why training cannot start or continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An option out of range.
    #[error("{name}: {reason}")]
    Option {
        /// The option by its name in [`TrainOptions`](super::TrainOptions), such as `lora.rank`.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Nothing to train.
    #[error("`{}` leaves nothing to train in this model", .0.name())]
    NothingTrainable(Trainable),
    /// Nothing to train beside blocks, which do not train.
    #[error(
        "`{}` leaves nothing to train in this model, whose matrices are in blocks", .0.name()
    )]
    OnlyBlocks(Trainable),
    /// The selection matches nothing.
    #[error("no matrix is selected")]
    NothingSelected,
    /// Patterns that match no matrix.
    #[error("no matrix matches `{patterns}`")]
    UnmatchedPattern {
        /// The patterns.
        patterns: String,
    },
    /// A matrix cannot train, or have an adapter.
    #[error("`{name}`: {source}")]
    Form {
        /// Name of the matrix.
        name: MatrixName,
        /// Why.
        source: FormError,
    },
    /// The adapter that was trained cannot be stored.
    #[error("{0}")]
    Adapter(#[from] AdapterError),
    /// Less data than one step needs.
    #[error("there is too little to train on: {}, but one step takes {batch}", number_of(*rows, "row"))]
    TooFewRows {
        /// Windows of the text, or examples of the task.
        rows: usize,
        /// Rows in a step: batch size times accumulated batches.
        batch: usize,
    },
    /// A token is not in the model's vocabulary.
    #[error(
        "token {token} is not in the model's vocabulary of {vocab_size}; does the tokenizer belong to another model?"
    )]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The loss, the gradient or a score is infinite or not a number.
    #[error("the {what} is not finite at step {step}{}", last_saved(checkpoint))]
    NotFinite {
        /// `loss`, `gradient`, or the name of a score.
        what: &'static str,
        /// The step, from 1.
        step: usize,
        /// The last checkpoint before it.
        checkpoint: Option<PathBuf>,
    },
    /// A checkpoint cannot be read.
    #[error("{path}: not a readable checkpoint: {reason}", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of a checkpoint is not the one that was saved.
    #[error("{path}: not the file that was saved; its digest differs", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// There are checkpoints, but the file that names one of them, or one of theirs, is missing.
    #[error("{path}: no such file, although there are checkpoints", path = path.display())]
    Lost {
        /// The file.
        path: PathBuf,
    },
    /// A checkpoint of another run.
    #[error("{path}: this checkpoint was made by another run", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// There is no checkpoint to resume from.
    #[error("{path}: there is no checkpoint to resume from", path = path.display())]
    NoCheckpoint {
        /// The run directory.
        path: PathBuf,
    },
    /// Reading or writing a file failed.
    #[error("{0}")]
    File(#[from] FileError),
    /// The model that a run begins with cannot be read.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// Measuring perplexity failed.
    #[error("{0}")]
    Eval(#[source] EvalError),
    /// The caller's evaluation failed.
    #[error("the evaluation failed: {0}")]
    Evaluation(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A new run would replace another.
    #[error("{path}: a run already exists here", path = path.display())]
    RunExists {
        /// The run directory.
        path: PathBuf,
    },
    /// The user stopped the work; a checkpoint was saved.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

impl From<EvalError> for TrainError {
    fn from(error: EvalError) -> Self {
        match error {
            // Stopping is not a failure of the evaluation.
            EvalError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            other => Self::Eval(other),
        }
    }
}

fn last_saved(checkpoint: &Option<PathBuf>) -> String {
    match checkpoint {
        Some(path) => format!("; the last good checkpoint is {}", path.display()),
        None => "; there is no checkpoint before it".into(),
    }
}
