//! The request for a new run, with all checks that take little time.

use std::path::{Path, PathBuf};

use anyhow::{Error, Result};
use welore_burn::data::Texts;
use welore_burn::forms::Precision;
use welore_burn::model::{DecoderConfig, read_config};
use welore_burn::named::Named;
use welore_burn::plan::read_plan;
use welore_burn::train::{RUN_FILE, RunSource, ScheduleKind, TrainOptions, Trainable};

use super::data::{TrainingData, source_of};
use super::scratch::described_in;
use crate::args::{OptionsArgs, RANK_OPTIONS, TrainArgs, TrainStartArgs, Typed, rule};
use crate::failure::WrongInput;
use crate::models;
use crate::shared::artifacts::check_place;
use crate::shared::effects::min_ratio;
use crate::shared::planning::Goal;
use crate::shared::selecting::check_patterns;
use crate::shared::text::{
    NO_CONVERSATIONS, template_to_learn, texts_of, warn_of_marks, window_of,
};

/// A new run.
pub struct Request {
    /// Directory of the model to start from, or of the description of one with random weights.
    pub model: PathBuf,
    /// Its configuration.
    pub config: DecoderConfig,
    /// Where the data is.
    pub source: RunSource,
    /// What is trained on.
    pub data: TrainingData,
    /// The text to evaluate on.
    pub eval_text: Option<(PathBuf, Texts)>,
    /// The text that is only watched.
    pub watch_text: Option<(PathBuf, Texts)>,
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
        if let Some(output) = &start.output {
            check_place(output)?;
        }
        let Some(model) = &start.model else { unreachable!("clap asks for MODEL") };
        let source = source_of(start)?;
        let mut options = start.options.over(&defaults(start));
        check_evaluated(start, &options, source.is_task(), typed)?;
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
        check_effects(start, &options, typed)?;
        check_patterns(&start.selection)?;
        let goal = Goal::of_weights(start.plan.as_deref(), start.goal.target(), &start.target)?;
        if let Some(Goal::Target(_, policy)) = goal {
            typed.check([min_ratio(policy)])?;
        }
        let data = TrainingData::read(&source)?;
        let read = |path: &PathBuf| Ok::<_, Error>((path.clone(), texts_of(path)?));
        let eval_text = start.eval_text.as_ref().map(read).transpose()?;
        let watch_text = start.watch_text.as_ref().map(read).transpose()?;
        let model = match start.from_scratch {
            true => described_in(&models::configuration_of(model)?).into(),
            false => models::directory_of(model)?,
        };
        if !start.from_scratch {
            // It goes with the resulting model.
            read_plan(&model)?;
        }
        let config = read_config(&model)?;
        if start.options.seq_len.is_none() {
            options.seq_len = options.seq_len.min(config.context()).max(2);
        }
        check_context(args, options.seq_len, &config)?;
        check_texts(&data, [&eval_text, &watch_text], start, &model, typed)?;
        let dtype = args.compute.dtype.unwrap_or_default();
        Ok(Self { model, config, source, data, eval_text, watch_text, dtype, options, goal })
    }

    /// The chat template of conversations, if there are any and it is not the model's own.
    pub fn template<'a>(&self, start: &'a TrainStartArgs) -> Option<&'a Path> {
        let talks = has_conversations(&self.data, [&self.eval_text, &self.watch_text]);
        start.template.file().filter(|_| talks)
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
    window_of(args.eval_seq_len, config)
}

/// Checks that typed options on evaluations have an effect in a run of this many steps.
pub fn check_evaluations(options: &TrainOptions, typed: &Typed) -> Result<()> {
    let evaluates = options.eval_every == 0 || options.evaluates();
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

/// Checks that typed options on evaluations have something to evaluate on, and that it is evaluated.
/// What is missing is named: a text if there is nothing to evaluate on, else how often.
fn check_evaluated(
    start: &TrainStartArgs,
    options: &TrainOptions,
    is_task: bool,
    typed: &Typed,
) -> Result<()> {
    let can = is_task || start.eval_text.is_some();
    let often = options.eval_every > 0;
    let (lacks, hint) = match (can, typed.has("eval-every")) {
        (false, _) => (
            "only with evaluations, and there is nothing to evaluate on",
            "give --eval-text FILE, which also decides which model is the best",
        ),
        (true, true) => (
            "only with evaluations, and --eval-every 0 means none",
            "give --eval-every N, or leave it out",
        ),
        // Of a task, unless a file of settings says so.
        (true, false) => (
            "only with evaluations, and none is asked for",
            "give --eval-every N to evaluate every N steps",
        ),
    };
    let reads_text = start.eval_text.is_some() || start.watch_text.is_some();
    let works = often && can;
    let of_evaluations = |option| rule(option, works, lacks).with_hint(hint);
    typed.check([
        rule("eval-text", often, "nothing is evaluated with --eval-every 0"),
        rule("eval-every", !often || can, "there is nothing to evaluate on")
            .with_hint("give --eval-text FILE as well"),
        of_evaluations("eval-windows"),
        of_evaluations("watch-text"),
        of_evaluations("must-improve"),
        of_evaluations("patience"),
        rule("eval-seq-len", reads_text, "only with --eval-text or --watch-text"),
        of_evaluations("eval-seq-len"),
    ])
}

/// Whether some of the texts of a run are conversations.
fn has_conversations(data: &TrainingData, measured: [&Option<(PathBuf, Texts)>; 2]) -> bool {
    let learns = matches!(data, TrainingData::Text(_, Texts::Conversations(_)));
    let mut measured = measured.into_iter().flatten();
    learns || measured.any(|(_, texts)| matches!(texts, Texts::Conversations(_)))
}

/// Warns of texts that are full of marks, and checks that conversations can become text.
fn check_texts(
    data: &TrainingData,
    measured: [&Option<(PathBuf, Texts)>; 2],
    start: &TrainStartArgs,
    model: &Path,
    typed: &Typed,
) -> Result<()> {
    match data {
        TrainingData::Text(path, Texts::Documents(documents)) => warn_of_marks(path, documents),
        TrainingData::Text(_, Texts::Conversations(_)) => {
            let why = "a chat template says what a conversation begins with";
            typed.check([rule("bos", evaluates_text(start), why)])?;
        }
        TrainingData::Task(_) => {}
    }
    let needs_template = has_conversations(data, measured);
    typed.check([rule("template", needs_template, NO_CONVERSATIONS)])?;
    if needs_template {
        template_to_learn(start.template.file(), model)?;
    }
    Ok(())
}

/// Whether a run is evaluated on a text, or watches one.
pub fn evaluates_text(start: &TrainStartArgs) -> bool {
    start.eval_text.is_some() || start.watch_text.is_some()
}

/// Checks that what was typed has an effect.
fn check_effects(start: &TrainStartArgs, options: &TrainOptions, typed: &Typed) -> Result<()> {
    let has_target = start.goal.target().is_some();
    typed.check(
        RANK_OPTIONS.map(|option| rule(option, has_target, "only with a target, such as --err")),
    )?;
    let decays = options.schedule != ScheduleKind::Constant;
    let of_task = "only with a text; prompts of a task begin as the tokenizer makes them";
    let is_random = options.shuffle || start.from_scratch || options.trainable.is_random();
    typed.check([
        rule("lr-floor", decays, "not with --schedule constant"),
        rule("bos", start.task.is_none() || evaluates_text(start), of_task),
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
    let context = config.context();
    if let Some(window) = args.start.eval_seq_len.filter(|window| *window > context) {
        let message =
            format!("--eval-seq-len {window} is more than the model's context of {context} tokens");
        return Err(WrongInput::with_hint(message, format!("give at most {context}")).into());
    }
    if seq_len <= context {
        return Ok(());
    }
    let (what, hint) = match &args.resume {
        Some(dir) => {
            let file = dir.join(RUN_FILE);
            (format!("{}: --seq-len", file.display()), "a run cannot be changed".into())
        }
        None => ("--seq-len".into(), format!("give at most {context}")),
    };
    let message = format!("{what} {seq_len} is more than the model's context of {context} tokens");
    Err(WrongInput::with_hint(message, hint).into())
}

fn refuse<T>(message: &str) -> Result<T> {
    Err(WrongInput::new(message).into())
}
