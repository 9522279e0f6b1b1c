use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::methods::Trainable;
use crate::named::{Named, named};

/// How a model is trained. The run directory holds these options, and resuming needs no others.
///
/// The serialized options are part of a run's identity. So a new option must be left out while it
/// has its default, `#[serde(default, skip_serializing_if = ...)]`: then runs that began before it
/// existed can be resumed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// What is trained.
    pub trainable: Trainable,
    /// Tokens in a window of text, or the most tokens in an example.
    pub seq_len: usize,
    /// Rows in a batch.
    pub batch_size: usize,
    /// Batches whose gradients add up to one step.
    pub accumulate: usize,
    /// Number of steps.
    pub steps: usize,
    /// Largest learning rate.
    pub lr: f64,
    /// How the learning rate falls after warm-up.
    pub schedule: ScheduleKind,
    /// Steps over which the learning rate rises to `lr`.
    pub warmup: usize,
    /// Share of `lr` that the learning rate falls to.
    pub lr_floor: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm; `None` leaves them as they are.
    pub clip: Option<f64>,
    /// Whether rows are reshuffled in every epoch.
    pub shuffle: bool,
    /// Seed of the shuffling, and of new adapters.
    pub seed: u64,
    /// Whether blocks recompute what the backward pass needs instead of storing it: less memory for
    /// about a third more work.
    pub recompute: bool,
    /// Options of LoRA adapters, if those train.
    pub lora: LoraOptions,
    /// Options of gradient projection, if that is the method.
    pub galore: GaloreOptions,
    /// Steps between evaluations; 0 means none. The model that the run starts from is evaluated
    /// too, unless this is more than all steps.
    pub eval_every: usize,
    /// Number of evaluations without a better score after which the run ends; `None` never ends it
    /// early.
    pub patience: Option<usize>,
    /// Steps between checkpoints; 0 means only at the end.
    pub save_every: usize,
}

/// The largest allowed count; keeps later products from overflowing.
const MOST: usize = 1_000_000_000;

/// LoRA adapters (arXiv 2106.09685), `W + alpha / rank · A B`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraOptions {
    /// Rank of the adapters.
    pub rank: usize,
    /// Scale of the adapters, before division by their rank.
    pub alpha: f64,
}

impl Default for LoraOptions {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0 }
    }
}

/// Gradient low-rank projection (GaLore, arXiv 2403.03507).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GaloreOptions {
    /// Rank of the projected gradients, below the full rank of the largest matrix. Smaller matrices
    /// train without projection.
    pub rank: usize,
    /// Steps between new projections.
    pub refresh: usize,
    /// Scale of the updates.
    pub scale: f64,
}

impl Default for GaloreOptions {
    fn default() -> Self {
        Self { rank: 128, refresh: 200, scale: 0.25 }
    }
}

/// How the learning rate falls after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ScheduleKind {
    /// Not at all.
    Constant,
    /// Along half a cosine.
    Cosine,
    /// Linearly.
    Linear,
}

named!(ScheduleKind {
    Constant => "constant", "no decay";
    Cosine => "cosine", "decay along half a cosine";
    Linear => "linear", "linear decay";
});

impl Default for TrainOptions {
    /// The paper's settings for continual pretraining: rows of 1024 tokens, batches of 4, a
    /// learning rate of 5e-5 that falls along a cosine to a tenth, 500 steps of warm-up, 10 000
    /// steps.
    fn default() -> Self {
        Self {
            trainable: Trainable::Lrc,
            seq_len: 1024,
            batch_size: 4,
            accumulate: 1,
            steps: 10_000,
            lr: 5e-5,
            schedule: ScheduleKind::Cosine,
            warmup: 500,
            lr_floor: 0.1,
            weight_decay: 0.0,
            clip: None,
            shuffle: true,
            seed: 0,
            recompute: false,
            lora: LoraOptions::default(),
            galore: GaloreOptions::default(),
            eval_every: 0,
            patience: None,
            save_every: 500,
        }
    }
}

impl TrainOptions {
    /// Checks every option against its range.
    ///
    /// # Errors
    ///
    /// [`TrainError::Option`], with the name of the option.
    pub fn check(&self) -> Result<(), TrainError> {
        let refuse = |name, reason: &str| Err(TrainError::Option { name, reason: reason.into() });
        self.check_count("batch_size", self.batch_size)?;
        self.check_count("accumulate", self.accumulate)?;
        self.check_count("steps", self.steps)?;
        self.check_count("patience", self.patience.unwrap_or(1))?;
        if self.batch_size.saturating_mul(self.accumulate) > MOST {
            return refuse("accumulate", "a step would have more than 1000000000 rows");
        }
        if self.seq_len < 2 {
            return refuse("seq_len", "a window needs at least 2 tokens");
        }
        if self.patience.is_some() && self.eval_every == 0 {
            return refuse("patience", "needs evaluations, which the run does not make");
        }
        self.check_positive("lr", self.lr)?;
        if !(0.0..=1.0).contains(&self.lr_floor) {
            return refuse("lr_floor", "must be a share in [0, 1]");
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return refuse("weight_decay", "must be a number of at least 0");
        }
        self.check_positive("clip", self.clip.unwrap_or(1.0))?;
        // The options of all methods, even of those that this run does not use.
        Trainable::all().iter().try_for_each(|method| method.check(self))
    }

    /// Refuses a count that is 0 or above [`MOST`].
    pub(super) fn check_count(&self, name: &'static str, count: usize) -> Result<(), TrainError> {
        let reason = match count {
            0 => "must be at least 1",
            1..=MOST => return Ok(()),
            _ => "must be at most 1000000000",
        };
        Err(TrainError::Option { name, reason: reason.into() })
    }

    /// Refuses a number that is not above 0.
    pub(super) fn check_positive(&self, name: &'static str, value: f64) -> Result<(), TrainError> {
        match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err(TrainError::Option { name, reason: "must be a number above 0".into() }),
        }
    }

    /// Refuses a warm-up that would not end within the run.
    ///
    /// # Errors
    ///
    /// [`TrainError::Option`].
    pub fn check_warmup(&self) -> Result<(), TrainError> {
        let Self { warmup, steps, .. } = self;
        if warmup <= steps {
            return Ok(());
        }
        let reason = format!("{warmup} steps of warm-up are more than the {steps} of the run");
        Err(TrainError::Option { name: "warmup", reason })
    }

    /// Whether a run with these options is evaluated at all.
    pub fn evaluates(&self) -> bool {
        (1..=self.steps).contains(&self.eval_every)
    }

    /// Number of rows in one step.
    pub fn rows_a_step(&self) -> usize {
        self.batch_size * self.accumulate
    }
}
