//! Fine-tuning: what is trainable, the loss, the loop, and runs that survive.
//!
//! Works on any [`LanguageModel`](crate::language::LanguageModel) on an autodiff device. A
//! run is a directory: settings, metrics, checkpoints, and records of gradients if they are
//! tracked. This room never sees spectra.

mod checkpoints;
mod clip;
mod dynamics;
mod error;
mod execution;
mod galore;
mod lines;
mod loss;
mod metrics;
mod optimizer;
mod queue;
mod schedule;
mod score;
mod settings;
mod trainable;
mod training;

pub use checkpoints::{Checkpoints, Position};
pub use clip::{clip_to_norm, global_norm};
pub(crate) use dynamics::places;
pub use dynamics::{
    DynamicsError, GRADIENTS_FILE, GradientDynamics, GradientRecord, MatrixDynamics, SETTLED_SHARE,
    SETTLED_WINDOW, WeightRank, read_gradients,
};
pub use error::TrainError;
pub use execution::Execution;
pub use galore::{GaLore, GaLoreConfig, GaLoreState};
pub use loss::{Batch, Memory, loss_and_gradients};
pub use metrics::{Metrics, peak_memory};
pub use schedule::Schedule;
pub use score::Score;
pub use settings::{GaloreSettings, LoraSettings, ScheduleKind, TrainSettings};
pub use trainable::{
    Trainable, TrainableCount, count_trainable, select_trainable, trainable_paths,
};
pub use training::{RunPlace, StepReport, Training, TrainingEvent, check_rows};
