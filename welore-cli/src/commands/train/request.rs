//! The request for a new run, with all checks that take little time.

use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::eval::PerplexityOptions;
use welore_burn::forms::Precision;
use welore_burn::model::DecoderConfig;
use welore_burn::named::Named;
use welore_burn::plan::read_plan;
use welore_burn::train::{RUN_FILE, RunSource, ScheduleKind, TrainOptions, Trainable};

use super::data::{TrainingData, source_of};
use super::scratch::described_in;
use crate::args::{OptionsArgs, RANK_OPTIONS, TrainArgs, TrainStartArgs, Typed, rule};
use crate::failure::WrongInput;
use crate::models;
use crate::shared::effects::min_ratio;
use crate::shared::planning::Goal;
use crate::shared::selecting::check_patterns;
use crate::shared::text::{documents_of, warn_of_marks};

/// A new run.
pub struct Request {
    /// Directory of the model to start from, or of the description of one with random weights.
    pub model: PathBuf,
    /// Where the data is.
    pub source: RunSource,
    /// What is trained on.
    pub data: TrainingData,
    /// The text to evaluate on.
    pub eval_text: Option<Vec<String>>,
    /// The text that is only watched.
    pub watch_text: Option<Vec<String>>,
    pub dtype: Precision,
    /// How it is trained, except for the steps of epochs.
    pub options: TrainOptions,
    /// How far the model is compressed first, if at all.
    pub goal: Option<Goal>,
}

impl Request {
    /// Checks the arguments of a new run, and reads its data.
    pub fn check(args: &TrainArgs, typed: &Typed) -> Result<Self> {
        let start = &args.start;
        models::check_outside_cache(start.output.as_deref().unwrap_or(Path::new("")))?;
        let Some(model) = &start.model else { unreachable!("clap asks for MODEL") };
        let source = source_of(start)?;
        let options = start.options.over(&defaults(start));
        options.check()?;
        if start.epochs.is_some_and(|epochs| !(epochs > 0.0 && epochs <= 1e6)) {
            return refuse("--epochs: must be a number above 0 and at most 1000000");
        }
        check_options(&start.options, options.trainable)?;
        if start.track_gradients.is_some() && !options.trainable.is_tracked() {
            let name = options.trainable.name();
            return refuse(&format!("--track-gradients: --trainable {name} trains no projection"));
        }
        if start.epochs.is_none() {
            options.check_warmup()?;
        }
        if start.eval_seq_len.is_some_and(|seq_len| seq_len < 2) {
            return refuse("--eval-seq-len: a window needs at least 2 tokens");
        }
        check_effects(start, &options, source.is_task(), typed)?;
        check_patterns(&start.selection)?;
        let goal = Goal::of_weights(start.plan.as_deref(), start.goal.target(), &start.target)?;
        if let Some(Goal::Target(_, policy)) = goal {
            typed.check([min_ratio(policy)])?;
        }
        let data = TrainingData::read(&source)?;
        let eval_text = start.eval_text.as_deref().map(documents_of).transpose()?;
        let watch_text = start.watch_text.as_deref().map(documents_of).transpose()?;
        let model = match start.from_scratch {
            true => described_in(&models::configuration_of(model)?).into(),
            false => models::directory_of(model)?,
        };
        if !start.from_scratch {
            // It goes with the resulting model.
            read_plan(&model)?;
        }
        if let TrainingData::Text(documents) = &data {
            warn_of_marks(source.path(), documents);
        }
        let dtype = args.compute.dtype.unwrap_or_default();
        Ok(Self { model, source, data, eval_text, watch_text, dtype, options, goal })
    }
}

/// The paper's options, for continual pretraining or for tasks.
fn defaults(args: &TrainStartArgs) -> TrainOptions {
    let mut options = TrainOptions::default();
    if args.task.is_some() {
        options = TrainOptions { seq_len: 512, batch_size: 8, steps: 1000, ..options };
    }
    if args.from_scratch {
        options.trainable = Trainable::Full;
    }
    let steps = args.options.steps.unwrap_or(options.steps);
    options.warmup = options.warmup.min(steps / 10);
    if args.eval_text.is_some() {
        options.eval_every = steps;
    }
    options
}

/// Options with the number of steps that `--epochs` takes, if it was given.
pub fn with_epochs(args: &TrainStartArgs, mut options: TrainOptions, rows: usize) -> TrainOptions {
    let Some(epochs) = args.epochs else { return options };
    let steps = (epochs * rows as f64 / options.rows_a_step() as f64).ceil() as usize;
    options.steps = steps.max(1);
    if args.options.warmup.is_none() {
        options.warmup = options.warmup.min(steps / 10);
    }
    if args.options.eval_every.is_none() && options.eval_every > 0 {
        options.eval_every = options.steps;
    }
    options
}

/// Tokens in a window of the texts that a new run evaluates: as many as `eval` reads, unless the
/// arguments say otherwise.
pub fn eval_window(args: &TrainStartArgs, config: &DecoderConfig) -> usize {
    let usual = PerplexityOptions::default().seq_len;
    args.eval_seq_len.unwrap_or(usual.min(config.max_position_embeddings))
}

/// Checks that typed options on evaluations have an effect in a run of this many steps.
pub fn check_evaluations(options: &TrainOptions, typed: &Typed) -> Result<()> {
    let evaluates = options.eval_every <= options.steps;
    let never = "nothing is evaluated, because --eval-every is more than the steps of the run";
    // The start may be the best one.
    let can_end = |patience: usize| patience.saturating_mul(options.eval_every) < options.steps;
    let can_end = options.patience.is_none_or(can_end);
    let too_few = "the run has too few evaluations to end early";
    typed.check([
        rule("eval-every", evaluates, never),
        rule("eval-text", evaluates, never),
        rule("eval-windows", evaluates, never),
        rule("eval-seq-len", evaluates, never),
        rule("watch-text", evaluates, never),
        rule("must-improve", evaluates, never),
        rule("patience", can_end, too_few),
    ])
}

/// Checks that what was typed has an effect.
fn check_effects(
    start: &TrainStartArgs,
    options: &TrainOptions,
    is_task: bool,
    typed: &Typed,
) -> Result<()> {
    let has_target = start.goal.target().is_some();
    typed.check(
        RANK_OPTIONS.map(|option| rule(option, has_target, "only with a target, such as --err")),
    )?;
    let evaluates = options.eval_every > 0;
    let can_evaluate = is_task || start.eval_text.is_some();
    let reads_text = can_evaluate && (start.eval_text.is_some() || start.watch_text.is_some());
    let without = "only with evaluations; see --eval-every";
    let decays = options.schedule != ScheduleKind::Constant;
    let is_random = options.shuffle || start.from_scratch || options.trainable.is_random();
    typed.check([
        rule("eval-text", evaluates, "nothing is evaluated with --eval-every 0"),
        rule("eval-seq-len", evaluates && reads_text, "only with --eval-text or --watch-text"),
        rule("eval-windows", evaluates && can_evaluate, without),
        rule("watch-text", evaluates && can_evaluate, without)
            .with_hint("--eval-text FILE is evaluated, and decides which model is the best"),
        rule("must-improve", evaluates && can_evaluate, without),
        rule("lr-floor", decays, "not with --schedule constant"),
        rule("seed", is_random, "nothing is random in this run, with --no-shuffle"),
    ])
}

/// Refuses options that only another way to train reads: they would have no effect.
pub fn check_options(args: &OptionsArgs, chosen: Trainable) -> Result<()> {
    match args.idle(chosen) {
        None => Ok(()),
        Some((flag, of)) => refuse(&format!("{flag}: only for --trainable {}", of.name())),
    }
}

/// Refuses rows that are longer than the model's context, and windows to evaluate on.
pub fn check_context(args: &TrainArgs, seq_len: usize, config: &DecoderConfig) -> Result<()> {
    let context = config.max_position_embeddings;
    if let Some(window) = args.start.eval_seq_len.filter(|window| *window > context) {
        let message =
            format!("--eval-seq-len {window} is more than the model's context of {context} tokens");
        return Err(WrongInput::with_hint(message, format!("give at most {context}")).into());
    }
    if seq_len <= context {
        return Ok(());
    }
    let (what, hint) = match (&args.resume, args.start.options.seq_len) {
        (Some(dir), _) => {
            let file = dir.join(RUN_FILE);
            (format!("{}: --seq-len", file.display()), "a run cannot be changed".into())
        }
        (None, Some(_)) => ("--seq-len".into(), format!("give at most {context}")),
        (None, None) => ("the default --seq-len".into(), format!("give --seq-len {context}")),
    };
    let message = format!("{what} {seq_len} is more than the model's context of {context} tokens");
    Err(WrongInput::with_hint(message, hint).into())
}

fn refuse<T>(message: &str) -> Result<T> {
    Err(WrongInput::new(message).into())
}
