//! The log of a run, `RUN/train.log`.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Result;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt};
use welore_burn::files::FileError;
use welore_burn::train::TrainingEvent;

use crate::verbosity;

/// Logs to the run's file, after its existing content, until the guard is dropped.
pub fn open(dir: &Path) -> Result<DefaultGuard> {
    let path = dir.join("train.log");
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.map_err(FileError::io(path))?;
    let file = fmt::layer().with_ansi(false).with_target(false).with_writer(Mutex::new(file));
    let log = tracing_subscriber::registry().with(file.with_filter(LevelFilter::INFO));
    Ok(verbosity::set_beside(log))
}

/// Logs an event of a run.
pub fn note(event: &TrainingEvent) {
    match event {
        TrainingEvent::Step(step) => tracing::info!(
            "step {} loss {:.4} lr {:.3e} norm {:.3} tokens/s {:.0}",
            step.step,
            step.loss,
            step.lr,
            step.grad_norm,
            step.tokens_per_second
        ),
        TrainingEvent::Evaluation { step, score, watched } => {
            let watched = watched.map(|value| format!(" watched perplexity {value:.4}"));
            let (name, value) = (score.name(), score.value());
            tracing::info!("step {step} {name} {value:.4}{}", watched.unwrap_or_default());
        }
    }
}
