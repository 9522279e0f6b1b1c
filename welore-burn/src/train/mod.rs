//! Fine-tuning: what trains, the loss, the training loop, and runs that can be resumed.
//!
//! Works on any [`LanguageModel`](crate::model::LanguageModel) on an autodiff device. A run is a
//! directory: a [`RunFile`], metrics, checkpoints, and records of gradients if they are tracked.
//! This room does not use spectra.
//!
//! [`add_adapters`] puts LoRA adapters on a module of any kind, for a training loop of your own.

mod adapters;
mod checkpoints;
mod clip;
mod dynamics;
mod error;
mod events;
mod execution;
#[cfg(feature = "learner")]
mod learner;
mod lines;
mod loss;
mod methods;
mod metrics;
mod options;
mod queue;
mod run_file;
mod schedule;
mod score;
mod selecting;
mod training;

pub use adapters::add_adapters;
pub use checkpoints::{Checkpoints, Position};
pub use clip::{clip_to_norm, global_norm};
pub(crate) use dynamics::places;
pub use dynamics::{
    DynamicsError, GRADIENTS_FILE, GradientDynamics, GradientRecord, MatrixDynamics, SETTLED_SHARE,
    SETTLED_WINDOW, WeightRank, read_gradients,
};
pub use error::TrainError;
pub use events::{StepReport, TrainingEvent};
pub use execution::ExecutionOptions;
#[cfg(feature = "learner")]
pub use learner::{Learnable, LearnerLoss, row_loader};
pub use loss::{Batch, MemoryOptions, loss_and_gradients, losses};
pub use methods::{
    GaLore, GaLoreConfig, GaLoreState, Trainable, check_method, count_trainable, select_trainable,
    trainable_paths,
};
pub use metrics::{Metrics, peak_memory};
pub use options::{GaloreOptions, LoraOptions, ScheduleKind, TrainOptions};
pub use run_file::{RUN_FILE, RunFile, RunFileError, RunSource, check_run, model_digest};
pub use schedule::Schedule;
pub use score::{Evaluated, Score};
pub use selecting::TrainableCount;
pub use training::{RunPlace, Training, check_rows};
