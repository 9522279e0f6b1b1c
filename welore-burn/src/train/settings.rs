use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::trainable::Trainable;

/// How a model is trained. Written into the run directory, and all that resuming needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSettings {
    /// What is trained.
    pub trainable: Trainable,
    /// Tokens in a block.
    pub seq_len: usize,
    /// Blocks in a batch.
    pub batch_size: usize,
    /// Batches whose gradients make one step.
    pub accumulate: usize,
    /// Steps in all.
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
    /// Gradients are scaled down to this global norm; `None` leaves them.
    pub clip: Option<f64>,
    /// Whether blocks are shuffled, anew in every epoch.
    pub shuffle: bool,
    /// Seed of the shuffling.
    pub seed: u64,
    /// Whether blocks of the model compute again what backward needs, instead of storing it:
    /// less memory for about a third more work.
    pub recompute: bool,
    /// Adapters, where they are what is trained.
    pub lora: LoraSettings,
    /// Gradient projection, where it is how training goes.
    pub galore: GaloreSettings,
    /// Steps between evaluations; 0 is none.
    pub eval_every: usize,
    /// Evaluations without a better score after which the run ends.
    pub patience: Option<usize>,
    /// Steps between checkpoints; 0 is only at the end.
    pub save_every: usize,
}

/// No run is larger in any count; keeps later products from overflowing.
const MOST: usize = 1_000_000_000;

/// LoRA adapters (arXiv 2106.09685), `W + alpha / rank · A B`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LoraSettings {
    /// Rank of the adapters.
    pub rank: usize,
    /// Scale of the adapters, over their rank.
    pub alpha: f64,
}

impl Default for LoraSettings {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0 }
    }
}

/// Gradient low-rank projection (GaLore, arXiv 2403.03507).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GaloreSettings {
    /// Rank of the projected gradients.
    pub rank: usize,
    /// Steps between new projections.
    pub refresh: usize,
    /// Scale of the updates.
    pub scale: f64,
}

impl Default for GaloreSettings {
    fn default() -> Self {
        Self { rank: 128, refresh: 200, scale: 0.25 }
    }
}

/// How the learning rate falls after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Not at all.
    Constant,
    /// Along a half cosine.
    Cosine,
    /// Along a line.
    Linear,
}

impl Default for TrainSettings {
    /// The paper's settings for continual pretraining: sequences of 1024, batches of 4,
    /// learning rate 5e-5 along a cosine to a tenth, 500 steps of warm-up, 10 000 steps.
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
            lora: LoraSettings::default(),
            galore: GaloreSettings::default(),
            eval_every: 0,
            patience: None,
            save_every: 500,
        }
    }
}

impl TrainSettings {
    /// Checks every setting against its range.
    ///
    /// # Errors
    ///
    /// [`TrainError::Setting`], with the option's name.
    pub fn check(&self) -> Result<(), TrainError> {
        let refuse =
            |option, reason: &str| Err(TrainError::Setting { option, reason: reason.into() });
        let counts = [
            ("--batch-size", self.batch_size),
            ("--accumulate", self.accumulate),
            ("--steps", self.steps),
            ("--lora-rank", self.lora.rank),
            ("--galore-rank", self.galore.rank),
            ("--galore-refresh", self.galore.refresh),
            ("--patience", self.patience.unwrap_or(1)),
        ];
        if let Some((option, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return refuse(option, "must be at least 1");
        }
        if let Some((option, _)) = counts.iter().find(|(_, count)| *count > MOST) {
            return refuse(option, "must be at most 1000000000");
        }
        if self.batch_size.saturating_mul(self.accumulate) > MOST {
            return refuse("--accumulate", "batches of a step hold more than 1000000000 blocks");
        }
        if self.seq_len < 2 {
            return refuse("--seq-len", "a block needs at least 2 tokens");
        }
        let scales = [("--lora-alpha", self.lora.alpha), ("--galore-scale", self.galore.scale)];
        for (option, scale) in scales {
            if !(scale.is_finite() && scale > 0.0) {
                return refuse(option, "must be a number above 0");
            }
        }
        if self.patience.is_some() && self.eval_every == 0 {
            return refuse("--patience", "there are no evaluations without --eval-every");
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return refuse("--lr", "must be a number above 0");
        }
        if !(0.0..=1.0).contains(&self.lr_floor) {
            return refuse("--lr-floor", "must be a share in [0, 1]");
        }
        if !(self.weight_decay.is_finite() && self.weight_decay >= 0.0) {
            return refuse("--weight-decay", "must be a number of at least 0");
        }
        if self.clip.is_some_and(|clip| !(clip.is_finite() && clip > 0.0)) {
            return refuse("--clip", "must be a number above 0");
        }
        Ok(())
    }
}
