use std::path::PathBuf;

use super::methods::Trainable;
use crate::checkpoint::CheckpointError;
use crate::eval::EvalError;
use crate::files::FileError;
use crate::named::Named;
use crate::progress::Interrupted;

/// Why training cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An option out of range.
    #[error("{name}: {reason}")]
    Option {
        /// The option, as [`TrainOptions`](super::TrainOptions) calls it, such as `lora.rank`.
        name: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Nothing to train.
    #[error("`{}` leaves nothing to train in this model", .0.name())]
    NothingTrainable(Trainable),
    /// Less data than one step takes.
    #[error("there are {rows} rows to train on, fewer than the {batch} of one step")]
    TooFewRows {
        /// Windows of the text, or examples of the task.
        rows: usize,
        /// Rows in a step: batch size times accumulated batches.
        batch: usize,
    },
    /// A token the model does not know.
    #[error(
        "token {token} is not in the model's vocabulary of {vocab_size}; is the tokenizer another model's?"
    )]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The loss or the gradient is not a number any more.
    #[error("the {what} is not finite at step {step}{}", last_saved(checkpoint))]
    NotFinite {
        /// `loss`, `gradient`, or the name of a score.
        what: &'static str,
        /// The step, from 1.
        step: usize,
        /// The last checkpoint before it.
        checkpoint: Option<PathBuf>,
    },
    /// A checkpoint that cannot be read.
    #[error("{path}: not a readable checkpoint: {reason}", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file of a checkpoint that is not the one that was saved.
    #[error("{path}: not the file that was saved, by its digest", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// Checkpoints are there, but not the file that names one of them.
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
    /// There is no checkpoint to go on from.
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
    /// An evaluation of the caller's own failed.
    #[error("the evaluation failed: {0}")]
    Evaluation(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A new run would replace another.
    #[error("{path}: there is a run already", path = path.display())]
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
            // Stopping is no failure of the evaluation.
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
