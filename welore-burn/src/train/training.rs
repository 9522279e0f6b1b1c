use std::path::{Path, PathBuf};

use burn::module::ParamGroup;
use burn::optim::{AdamWConfig, GradientsAccumulator, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::json;
use std::time::Instant;

use super::checkpoints::{Checkpoints, Position};
use super::clip::{clip_to_norm, global_norm};
use super::error::TrainError;
use super::loss::loss_and_gradients;
use super::metrics::{Metrics, peak_memory};
use super::schedule::Schedule;
use super::settings::TrainSettings;
use super::trainable::{TrainableCount, select_trainable};
use crate::data::TokenBlocks;
use crate::language::LanguageModel;
use crate::progress::Interrupted;

/// A run in progress: a model whose chosen parameters train on blocks of text.
///
/// The run directory gets `metrics.jsonl`, a line a step, and `checkpoints/`. Everything that
/// decides the next step is a function of the settings and the position, so a resumed run
/// takes the same steps as one that was never stopped.
#[derive(Debug)]
pub struct Training<M> {
    model: M,
    settings: TrainSettings,
    schedule: Schedule,
    group: ParamGroup,
    count: TrainableCount,
    optimizer: Optimizer,
    position: Position,
    checkpoints: Checkpoints,
    metrics: Metrics,
    last_saved: Option<PathBuf>,
}

/// Burn's optimizer has no `Debug`.
struct Optimizer(ModuleOptimizer);

impl std::fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdamW")
    }
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub step: usize,
    /// Mean token cross-entropy of the batch before the step.
    pub loss: f64,
    /// Learning rate of the step.
    pub lr: f64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Trained tokens a second.
    pub tokens_per_second: f64,
}

/// What [`Training::run`] tells as it goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrainingEvent {
    /// A step was taken.
    Step(StepReport),
    /// An evaluation was made after so many steps.
    Evaluation {
        /// Steps taken.
        step: usize,
        /// Measured perplexity.
        perplexity: f64,
    },
}

impl<M: LanguageModel> Training<M> {
    /// Starts a run in `dir`, or goes on with the one there if `resume`.
    ///
    /// # Errors
    ///
    /// [`TrainError`] for settings out of range, for a model with nothing to train, and for
    /// checkpoints that cannot be read.
    pub fn open(
        model: M,
        settings: TrainSettings,
        dir: impl AsRef<Path>,
        resume: bool,
    ) -> Result<Self, TrainError> {
        settings.check()?;
        let dir = dir.as_ref();
        let (mut model, group, count) = select_trainable(model, settings.trainable)?;
        let mut optimizer = AdamWConfig::new()
            .with_beta_1(0.9)
            .with_beta_2(0.999)
            .with_epsilon(1e-8)
            .with_weight_decay(settings.weight_decay as f32)
            .init();
        let checkpoints = Checkpoints::open(dir.join("checkpoints"))?;
        let (mut position, mut last_saved) = (Position::start(), None);
        if resume {
            last_saved = Some(checkpoints.last()?.1);
            (model, optimizer, position) = checkpoints.load_last(model, optimizer)?;
        }
        let metrics = Metrics::open(dir.join("metrics.jsonl"), position.step)?;
        Ok(Self {
            schedule: Schedule::from(&settings),
            model,
            settings,
            group,
            count,
            optimizer: Optimizer(optimizer),
            position,
            checkpoints,
            metrics,
            last_saved,
        })
    }

    /// How much of the model trains.
    pub fn count(&self) -> TrainableCount {
        self.count
    }

    /// How far the run is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The model as it is now, on its autodiff device.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Takes the remaining steps. `evaluate` measures perplexity of the model on its plain
    /// device, when the settings ask for it; `observe` sees what happens and may stop the
    /// run, which then saves a checkpoint first.
    ///
    /// # Errors
    ///
    /// [`TrainError::NotFinite`] if loss or gradient is not a number any more, with the last
    /// good checkpoint; [`TrainError::Interrupted`]; errors of evaluation and of writing.
    pub fn run(
        &mut self,
        blocks: &TokenBlocks,
        device: &Device,
        mut evaluate: impl FnMut(&M) -> Result<f64, TrainError>,
        mut observe: impl FnMut(TrainingEvent) -> Result<(), Interrupted>,
    ) -> Result<(), TrainError> {
        self.check_blocks(blocks)?;
        while self.position.step < self.settings.steps {
            let report = self.step(blocks, device)?;
            let mut outcome = observe(TrainingEvent::Step(report));
            let step = self.position.step;
            let last = step == self.settings.steps;
            let due = |every: usize| every > 0 && step.is_multiple_of(every);
            let mut best = false;
            if due(self.settings.eval_every) && outcome.is_ok() {
                let perplexity = evaluate(&self.model.valid())?;
                self.metrics.write(&json!({ "step": step, "perplexity": perplexity }))?;
                best = self.position.best_perplexity.is_none_or(|lowest| perplexity < lowest);
                if best {
                    self.position.best_perplexity = Some(perplexity);
                }
                outcome = observe(TrainingEvent::Evaluation { step, perplexity });
            }
            if best || last || due(self.settings.save_every) || outcome.is_err() {
                self.save(best)?;
            }
            outcome?;
        }
        Ok(())
    }

    fn save(&mut self, best: bool) -> Result<(), TrainError> {
        let saved = self.checkpoints.save(
            &self.model,
            &self.group,
            &self.optimizer.0,
            self.position,
            best,
        )?;
        self.last_saved = Some(saved);
        Ok(())
    }

    /// One optimizer step, over as many batches as are accumulated.
    fn step(&mut self, blocks: &TokenBlocks, device: &Device) -> Result<StepReport, TrainError> {
        let started = Instant::now();
        let settings = &self.settings;
        let share = 1.0 / settings.accumulate as f64;
        let mut accumulated = GradientsAccumulator::new();
        let mut loss = 0.0;
        for part in 0..settings.accumulate {
            let batch = self.position.step * settings.accumulate + part;
            let tokens = batch_tensor(blocks, batch, settings, device);
            let (batch_loss, gradients) = loss_and_gradients(&self.model, tokens, share);
            loss += share * batch_loss.into_scalar::<f64>();
            accumulated.accumulate(&self.model, gradients);
        }
        let gradients = accumulated.grads();
        let grad_norm = global_norm(&self.model, &gradients);
        let step = self.position.step + 1;
        for (what, value) in [("loss", loss), ("gradient", grad_norm)] {
            if !value.is_finite() {
                let checkpoint = self.last_saved.clone();
                return Err(TrainError::NotFinite { what, step, checkpoint });
            }
        }
        let gradients = match settings.clip {
            Some(most) => clip_to_norm(&self.model, gradients, grad_norm, most),
            None => gradients,
        };
        let lr = self.schedule.rate(self.position.step);
        self.model = self.optimizer.0.step(lr, self.model.clone(), gradients);

        let tokens = settings.accumulate * settings.batch_size * settings.seq_len;
        let tokens_per_second = tokens as f64 / started.elapsed().as_secs_f64();
        self.position.step = step;
        self.position.tokens = self.position.tokens.saturating_add(tokens as u64);
        self.metrics.write(&json!({
            "step": step,
            "loss": loss,
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens_per_second": tokens_per_second,
            "peak_memory": peak_memory(),
        }))?;
        Ok(StepReport { step, loss, lr, grad_norm, tokens_per_second })
    }

    /// Checks that there is a block to train on, and that the model knows its tokens.
    ///
    /// # Errors
    ///
    /// [`TrainError::TooShort`], [`TrainError::UnknownToken`].
    pub fn check_blocks(&self, blocks: &TokenBlocks) -> Result<(), TrainError> {
        if blocks.is_empty() {
            let (tokens, seq_len) = (blocks.tokens(), self.settings.seq_len);
            return Err(TrainError::TooShort { tokens, seq_len });
        }
        let vocab_size = self.model.vocab_size();
        match blocks.largest_token() {
            Some(token) if token as usize >= vocab_size => {
                Err(TrainError::UnknownToken { token, vocab_size })
            }
            _ => Ok(()),
        }
    }
}

/// Batch number `batch` of the run, `[batch_size, seq_len]`.
fn batch_tensor(
    blocks: &TokenBlocks,
    batch: usize,
    settings: &TrainSettings,
    device: &Device,
) -> Tensor<2, Int> {
    let seed = settings.shuffle.then_some(settings.seed);
    let first = batch * settings.batch_size;
    let ids: Vec<i32> = (first..first + settings.batch_size)
        .flat_map(|number| blocks.nth(number, seed).iter().map(|token| *token as i32))
        .collect();
    let data = TensorData::new(ids, [settings.batch_size, settings.seq_len]);
    Tensor::from_data(data, device)
}
