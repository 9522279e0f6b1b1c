use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use burn::module::ParamGroup;
use burn::optim::{GradientsAccumulator, ModuleOptimizer};
use burn::tensor::Device;
use serde_json::json;

use super::checkpoints::{Checkpoints, Position};
use super::clip::{clip_to_norm, global_norm};
use super::dynamics::{GRADIENTS_FILE, Tracker};
use super::error::TrainError;
use super::events::{StepReport, TrainingEvent};
use super::execution::{ExecutionOptions, Executor};
use super::methods::{Trainable, select_trainable};
use super::metrics::{Metrics, peak_memory};
use super::options::{LoraOptions, TrainOptions};
use super::queue::{QueuedStep, StepNumbers, StepQueue};
use super::schedule::Schedule;
use super::score::Evaluated;
use super::selecting::TrainableCount;
use crate::adapters::LoraAdapter;
use crate::data::{TokenRow, TokenRows};
use crate::model::{LanguageModel, device_of};
use crate::progress::Interrupted;
use crate::words::number_of;

/// A run in progress: a model whose chosen parameters train on rows of tokens.
///
/// The run directory gets `metrics.jsonl`, with one line per step and per evaluation, and
/// `checkpoints/`; if gradients are [tracked](Training::track_gradients), `gradients.jsonl` as
/// well. Everything that decides the next step is a function of the options and the position, so a
/// resumed run takes the same steps as one that was never stopped.
#[derive(Debug)]
pub struct Training<M> {
    model: M,
    options: TrainOptions,
    schedule: Schedule,
    group: ParamGroup,
    count: TrainableCount,
    optimizer: Optimizer,
    position: Position,
    checkpoints: Checkpoints,
    metrics: Metrics,
    tracker: Option<Tracker>,
    last_saved: Option<PathBuf>,
}

/// What a run uses while its steps are taken.
struct Running<M> {
    executor: Executor<M>,
    queue: StepQueue,
    device: Device,
}

/// Burn's optimizer has no `Debug`.
struct Optimizer(ModuleOptimizer);

impl std::fmt::Debug for Optimizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Optimizer")
    }
}

/// Where a run lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunPlace<'a> {
    /// Its directory.
    pub dir: &'a Path,
    /// What identifies the model that it begins with, such as a digest.
    pub origin: &'a str,
    /// Whether to resume the run in the directory.
    pub resume: bool,
}

impl<M: LanguageModel> Training<M> {
    /// Starts a run in a directory, or resumes the one in it. A run without a checkpoint resumes
    /// from its start, which is the same each time.
    ///
    /// # Errors
    ///
    /// [`TrainError`] for options out of range, for a model with nothing to train, for checkpoints
    /// that cannot be read, and if a new run would replace another.
    pub fn open(model: M, options: TrainOptions, place: RunPlace<'_>) -> Result<Self, TrainError> {
        options.check()?;
        let RunPlace { dir, origin, resume } = place;
        let (mut model, group, count) = select_trainable(model, &options)?;
        let mut optimizer = options.trainable.optimizer(&model, &options);
        let checkpoints = Checkpoints::of_run(dir, origin);
        let (mut position, mut last_saved) = (Position::start(), None);
        match checkpoints.last(&options)? {
            Some(_) if !resume => return Err(TrainError::RunExists { path: dir.into() }),
            Some((_, saved)) => {
                last_saved = Some(saved);
                (model, optimizer, position) = checkpoints.load_last(model, optimizer)?;
            }
            None => checkpoints.begin()?,
        }
        let metrics = Metrics::open(dir.join("metrics.jsonl"), &position)?;
        Ok(Self {
            schedule: Schedule::from(&options),
            model,
            options,
            group,
            count,
            optimizer: Optimizer(optimizer),
            position,
            checkpoints,
            metrics,
            tracker: None,
            last_saved,
        })
    }

    /// Records the gradients of the projections in every `every`-th step, before clipping, in the
    /// run's file [`GRADIENTS_FILE`]; a line is a [`GradientRecord`](super::GradientRecord).
    /// Existing records of steps after the position are removed: these steps will be taken again.
    /// Other steps cost nothing, and tracking changes no step.
    ///
    /// # Errors
    ///
    /// [`TrainError::Option`] if neither a projection nor a factor of one trains;
    /// [`TrainError::File`] if the file cannot be read or written.
    pub fn track_gradients(&mut self, run: &Path, every: NonZeroUsize) -> Result<(), TrainError> {
        let path = run.join(GRADIENTS_FILE);
        let Some(tracker) = Tracker::open(path, every, &self.model, &self.position)? else {
            let reason = "neither a projection nor a factor of one trains".into();
            return Err(TrainError::Option { name: "track_gradients", reason });
        };
        self.tracker = Some(tracker);
        Ok(())
    }

    /// How much of the model trains.
    pub fn count(&self) -> TrainableCount {
        self.count
    }

    /// How far the run has come.
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many steps up to the position have no line in `metrics.jsonl`, because lines were lost.
    /// Training does not need them.
    pub fn missing_metrics(&self) -> usize {
        self.metrics.missing()
    }

    /// The model as it is now, on its autodiff device.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// The resulting model, on its plain device and without adapters: the one that scored best, or
    /// the current one if none was scored.
    ///
    /// # Errors
    ///
    /// [`TrainError::Broken`], [`TrainError::Damaged`].
    pub fn result(&self) -> Result<M, TrainError> {
        let best = self.checkpoints.load_best(self.model.clone())?;
        Ok(self.options.trainable.finish(best.valid()))
    }

    /// The LoRA adapter of the [result](Training::result), in f32; `None` if the method trains none. It
    /// belongs to the model that the run began with, whose compressed projections were merged.
    ///
    /// # Errors
    ///
    /// [`TrainError::Broken`], [`TrainError::Damaged`]; [`TrainError::Adapter`] for one that is not
    /// finite.
    pub fn adapter(&self) -> Result<Option<LoraAdapter>, TrainError> {
        if self.options.trainable != Trainable::Lora {
            return Ok(None);
        }
        let best = self.checkpoints.load_best(self.model.clone())?;
        let LoraOptions { rank, alpha } = self.options.lora;
        Ok(LoraAdapter::of_module(&best.valid(), alpha / rank as f64)?)
    }

    /// Takes the remaining steps. `evaluate` scores the model on its plain device, when the options
    /// ask for it; a run that is evaluated at all begins with that, so the best model may be the
    /// one that it starts from. `observe` gets every event and may stop the run, which then saves a
    /// checkpoint first. The model is on its autodiff device. A run ends early if its score has not
    /// improved for as many evaluations as its patience.
    ///
    /// # Errors
    ///
    /// [`TrainError::NotFinite`] if the loss, the gradient or a score is not finite, with the last
    /// good checkpoint; [`TrainError::Interrupted`]; the errors of [`Self::check_rows`] and
    /// [`Self::check_position`], of evaluation and of writing.
    pub fn run(
        &mut self,
        rows: &TokenRows,
        execution: ExecutionOptions,
        mut evaluate: impl FnMut(&M) -> Result<Evaluated, TrainError>,
        mut observe: impl FnMut(TrainingEvent) -> Result<(), Interrupted>,
    ) -> Result<(), TrainError> {
        self.check_rows(rows)?;
        self.check_position(rows)?;
        let device = device_of(&self.model);
        let mut running = Running {
            executor: Executor::new(
                &self.model,
                std::slice::from_ref(&device),
                execution,
                self.options.recompute,
            ),
            queue: StepQueue::new(execution.ahead),
            device,
        };
        while !self.is_done() {
            if self.owes_evaluation() {
                // No evaluation is made of steps whose numbers were not checked.
                self.read_all(&mut running, &mut observe)?;
            }
            // A run that was stopped before an evaluation makes it first.
            let mut best = false;
            let outcome = if self.owes_evaluation() {
                let event;
                (event, best) = self.evaluate(&mut evaluate)?;
                observe(event)
            } else {
                self.step(rows, &mut running)?;
                match running.queue.read_due() {
                    Some(numbers) => {
                        observe(TrainingEvent::Step(self.note(numbers, &running.device)?))
                    }
                    None => Ok(()),
                }
            };
            let (step, every) = (self.position.step, self.options.save_every);
            let due = every > 0 && step.is_multiple_of(every) && !self.owes_evaluation();
            if best || due || self.is_done() || outcome.is_err() {
                let rest = self.read_all(&mut running, &mut observe);
                if !matches!(rest, Err(TrainError::NotFinite { .. })) {
                    self.save(best)?;
                }
                rest?;
            }
            outcome?;
        }
        Ok(())
    }

    /// Scores the model and records the result. Also returns whether it is the best so far. A
    /// checkpoint is saved if scoring fails.
    fn evaluate(
        &mut self,
        evaluate: &mut impl FnMut(&M) -> Result<Evaluated, TrainError>,
    ) -> Result<(TrainingEvent, bool), TrainError> {
        let evaluated = match evaluate(&self.model.valid()) {
            Ok(Evaluated { score, .. }) if !score.value().is_finite() => {
                Err(self.not_finite(score.name()))
            }
            other => other,
        };
        if evaluated.is_err() {
            self.save(false)?;
        }
        let evaluated = evaluated?;
        let (Evaluated { score, watched }, step) = (evaluated, self.position.step);
        let best = self.position.note(evaluated);
        let mut line = json!({ "step": step, score.name(): score.value(), "best": best });
        if let Some(perplexity) = watched {
            line["watched_perplexity"] = json!(perplexity);
        }
        self.metrics.write(&line)?;
        Ok((TrainingEvent::Evaluation { step, score, watched }, best))
    }

    /// Whether there is nothing left to do.
    pub fn is_done(&self) -> bool {
        self.position.is_last(&self.options)
    }

    fn owes_evaluation(&self) -> bool {
        self.position.owes_evaluation(&self.options)
    }

    fn not_finite(&self, what: &'static str) -> TrainError {
        let checkpoint = self.last_saved.clone();
        TrainError::NotFinite { what, step: self.position.step, checkpoint }
    }

    /// Whether the run ended before its last step because its score no longer improved.
    pub fn is_out_of_patience(&self) -> bool {
        self.position.is_out_of_patience(&self.options)
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

    /// Queues one optimizer step, over as many batches as are accumulated, on the device.
    fn step(&mut self, rows: &TokenRows, running: &mut Running<M>) -> Result<(), TrainError> {
        running.queue.begin();
        let options = &self.options;
        self.model = options.trainable.before_step(self.model.clone(), self.position.step, options);
        running.executor.follow(&self.model);
        // The batches of a step are consecutive rows. Every token counts the same, whichever batch
        // it is in.
        let count = options.rows_a_step();
        let seed = options.shuffle.then_some(options.seed);
        let first = self.position.step * count;
        let rows: Vec<TokenRow<'_>> = (first..first + count).map(|n| rows.nth(n, seed)).collect();
        let targets: usize = rows.iter().map(|row| row.predicted()).sum();
        let tokens: usize = rows.iter().map(|row| row.tokens.len()).sum();
        let (mut losses, mut sum) = (Vec::new(), GradientsAccumulator::new());
        for batch in rows.chunks(options.batch_size) {
            let share = 1.0 / targets as f64;
            let (part, gradients) = running.executor.pass(&self.model, batch, share);
            losses.extend(part);
            sum.accumulate(&self.model, gradients);
        }
        let gradients = sum.grads();
        if let Some(tracker) = &mut self.tracker {
            tracker.record(self.position.step + 1, &self.model, &gradients)?;
        }
        let grad_norm = global_norm(&self.model, &gradients);
        let gradients = match (options.clip, &grad_norm) {
            (Some(most), Some(norm)) => clip_to_norm(&self.model, gradients, norm.clone(), most),
            _ => gradients,
        };
        let lr = self.schedule.rate(self.position.step);
        self.model = self.optimizer.0.step(lr, self.model.clone(), gradients);
        self.position.step += 1;
        self.position.tokens = self.position.tokens.saturating_add(tokens as u64);
        running.queue.push(QueuedStep { step: self.position.step, lr, tokens, losses, grad_norm });
        Ok(())
    }

    /// Reads the numbers of all queued steps.
    fn read_all(
        &mut self,
        running: &mut Running<M>,
        observe: &mut impl FnMut(TrainingEvent) -> Result<(), Interrupted>,
    ) -> Result<(), TrainError> {
        let mut outcome = Ok(());
        while let Some(numbers) = running.queue.read() {
            let report = self.note(numbers, &running.device)?;
            outcome = outcome.and(observe(TrainingEvent::Step(report)));
        }
        Ok(outcome?)
    }

    /// Checks the numbers of a step and records them.
    fn note(&mut self, numbers: StepNumbers, device: &Device) -> Result<StepReport, TrainError> {
        let StepNumbers { step, lr, loss, grad_norm, tokens_per_second } = numbers;
        for (what, value) in [("loss", loss), ("gradient", grad_norm)] {
            if !value.is_finite() {
                let checkpoint = self.last_saved.clone();
                return Err(TrainError::NotFinite { what, step, checkpoint });
            }
        }
        self.metrics.write(&json!({
            "step": step,
            "loss": loss,
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens_per_second": tokens_per_second,
            "peak_memory": peak_memory(),
            "device_memory": device.memory_pool_usage().map(|usage| usage.bytes_reserved),
        }))?;
        Ok(StepReport { step, loss, lr, grad_norm, tokens_per_second })
    }

    /// Checks that the position has as many tokens as its steps read.
    ///
    /// # Errors
    ///
    /// [`TrainError::Broken`].
    pub fn check_position(&self, rows: &TokenRows) -> Result<(), TrainError> {
        let Position { step, tokens, .. } = self.position;
        let seed = self.options.shuffle.then_some(self.options.seed);
        let seen = step * self.options.rows_a_step();
        let expected = rows.tokens_before(seen, seed);
        if tokens == expected {
            return Ok(());
        }
        let (tokens, steps) = (number_of(tokens, "token"), number_of(step, "step"));
        let reason = format!("it has {tokens}, but {steps} have {expected}");
        Err(self.checkpoints.wrong_position(reason))
    }

    /// Checks that the rows fill a step, and that the model knows their tokens.
    ///
    /// # Errors
    ///
    /// [`TrainError::TooFewRows`], [`TrainError::UnknownToken`].
    pub fn check_rows(&self, rows: &TokenRows) -> Result<(), TrainError> {
        check_rows(rows, &self.options, self.model.vocab_size())
    }
}

/// Checks that rows fill a step of these options, and have no token outside a vocabulary.
///
/// # Errors
///
/// [`TrainError::TooFewRows`], [`TrainError::UnknownToken`].
pub fn check_rows(
    rows: &TokenRows,
    options: &TrainOptions,
    vocab_size: usize,
) -> Result<(), TrainError> {
    let batch = options.rows_a_step();
    if rows.len() < batch {
        return Err(TrainError::TooFewRows { rows: rows.len(), batch });
    }
    match rows.tokens().iter().max() {
        Some(token) if *token as usize >= vocab_size => {
            Err(TrainError::UnknownToken { token: *token, vocab_size })
        }
        _ => Ok(()),
    }
}
