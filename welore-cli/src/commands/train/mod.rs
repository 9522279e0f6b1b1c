//! `train`: fine-tune a model on a text or a task, by default only its low-rank components.

pub mod gradients;
mod log;
mod place;
mod preview;
mod run_file;
mod source;
mod start;

use std::path::Path;

use anyhow::Result;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{FloatDType, Tensor};
use serde_json::json;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::data::{TaskExample, TokenRows};
use welore_burn::eval::{PerplexityOptions, check_text, perplexity};
use welore_burn::llama::{Llama, LlamaConfig, open_llama, read_config, read_plan};
use welore_burn::progress::Interrupted;
use welore_burn::train::{
    Checkpoints, RunPlace, Score, TrainError, Trainable, Training, TrainingEvent, trainable_paths,
};

use super::card::MADE_BY;
use super::in_file;
use super::report::{add_run, check_page, write_page};
use super::task::Speaker;
use super::writing::{first_dtype, write_new_llama};
use crate::args::{SettingsArgs, TrainArgs};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::terminal::{Bar, Steps, interrupted, is_part};
use crate::{format, memory};
use place::Place;
use run_file::{RUN_FILE, RunFile};

/// Runs the command.
pub fn run(args: TrainArgs) -> Result<()> {
    memory::keep_pages();
    check_page(&args.page, args.start.output.as_deref())?;
    match (&args.resume, &args.start.output) {
        (_, Some(dir)) if args.dry_run => preview::show(&args, dir),
        (Some(dir), _) => {
            let run = RunFile::read(dir)?;
            run.refuse_changes(&args)?;
            let _place = Place::of_run(dir)?;
            let compute = Compute::choose(&args.compute)?.with_dtype(run.dtype)?;
            train(&args, Prepared::open(&args, run, compute, dir)?, dir)
        }
        (None, Some(dir)) => {
            let compute = Compute::choose(&args.compute)?;
            let new = start::start(&args, dir)?;
            let prepared = Prepared::open(&args, RunFile::read(dir)?, compute, dir)?;
            let _place = new.keep();
            train(&args, prepared, dir)
        }
        (None, None) => unreachable!("clap asks for one of --resume and --output"),
    }
}

/// Everything a run needs, read and checked.
struct Prepared {
    run: RunFile,
    compute: Compute,
    rows: TokenRows,
    evaluation: Evaluation,
    context: usize,
    training: Training<Llama>,
}

/// What a run is evaluated on.
enum Evaluation {
    Nothing,
    Text(Vec<u32>),
    Task(Box<Speaker>, Vec<TaskExample>),
}

impl Prepared {
    fn open(args: &TrainArgs, run: RunFile, compute: Compute, dir: &Path) -> Result<Self> {
        run.check_base()?;
        check_context(args, run.settings.seq_len, &read_config(run.base())?)?;
        let identity = run.identity()?;
        let last = Checkpoints::of_run(dir, &identity).last(&run.settings)?;
        check_model(&dir.join("model"), last.is_some_and(|(at, _)| at.is_last(&run.settings)))?;
        let rows = source::rows(&run, dir)?;
        let evaluation = source::same_evaluation(&run)?;
        let device = compute.device.clone().autodiff();
        let opened = open_llama(run.base(), &device)?;
        let masters = trainable_paths(opened.skeleton(), run.settings.trainable);
        let is_master = |path: &str| masters.contains(path);
        let loaded = opened.load(compute.dtype, is_master, &mut Bar::default())?;
        let context = loaded.config.max_position_embeddings;
        if let (Evaluation::Text(tokens), Some(path)) = (&evaluation, &run.eval_text) {
            let options = perplexity_options(&run, &compute);
            in_file(check_text(&loaded.model, tokens, context, &options), path)?;
        }
        let place = RunPlace { dir, origin: &identity, resume: args.resume.is_some() };
        let mut training = Training::open(loaded.model, run.settings.clone(), place)?;
        if let Some(every) = run.track_gradients {
            training.track_gradients(dir, every)?;
        }
        in_file(training.check_rows(&rows), run.data.path())?;
        training.check_position(&rows)?;
        Ok(Self { run, compute, rows, evaluation, context, training })
    }
}

/// Refuses rows that are longer than the model can see.
fn check_context(args: &TrainArgs, seq_len: usize, config: &LlamaConfig) -> Result<()> {
    let context = config.max_position_embeddings;
    if seq_len <= context {
        return Ok(());
    }
    let (what, hint) = match (&args.resume, args.start.settings.seq_len) {
        (Some(dir), _) => {
            let file = dir.join(RUN_FILE);
            (format!("{}: --seq-len", file.display()), "a run cannot be changed".into())
        }
        (None, Some(_)) => ("--seq-len".into(), format!("give at most {context}")),
        (None, None) => ("the default --seq-len".into(), format!("give --seq-len {context}")),
    };
    let message = format!("{what} {seq_len} is more than the model's context of {context} tokens");
    Err(WrongInput { message, hint: Some(hint) }.into())
}

/// Refuses options of a way to train that is not the chosen one: they would do nothing.
fn check_options(args: &SettingsArgs, chosen: Trainable) -> Result<()> {
    let options = [
        ("--lora-rank", args.lora_rank.is_some(), Trainable::Lora),
        ("--lora-alpha", args.lora_alpha.is_some(), Trainable::Lora),
        ("--galore-rank", args.galore_rank.is_some(), Trainable::Galore),
        ("--galore-refresh", args.galore_refresh.is_some(), Trainable::Galore),
        ("--galore-scale", args.galore_scale.is_some(), Trainable::Galore),
    ];
    let idle = options.into_iter().find(|(_, given, of)| *given && *of != chosen);
    let Some((option, _, of)) = idle else { return Ok(()) };
    let of = if of == Trainable::Lora { "lora" } else { "galore" };
    let message = format!("{option}: for --trainable {of} only");
    Err(WrongInput { message, hint: None }.into())
}

/// Refuses what is in the place of a run's model and is not that: nothing may be there before
/// the run is `done`, and then a model, since it is put there whole.
fn check_model(model: &Path, done: bool) -> Result<()> {
    let Ok(found) = model.symlink_metadata() else { return Ok(()) };
    if done && found.is_dir() && Checkpoint::open(model).is_ok() {
        return Ok(());
    }
    let message = format!("{} is not what this run wrote", model.display());
    let hint = Some("move it away; the run writes its model there when it is done".into());
    Err(WrongInput { message, hint }.into())
}

fn perplexity_options(run: &RunFile, compute: &Compute) -> PerplexityOptions {
    PerplexityOptions {
        seq_len: run.settings.seq_len,
        blocks: run.eval_blocks,
        at_once: compute.at_once(),
    }
}

fn train(args: &TrainArgs, prepared: Prepared, dir: &Path) -> Result<()> {
    let Prepared { run, compute, rows, evaluation, context, mut training } = prepared;
    let _log = log::open(dir)?;
    let count = training.count();
    let trained = format!(
        "training {} of {} parameters ({}) on {} rows",
        format::count(count.trainable),
        format::count(count.total),
        format::percent(count.trainable as f64 / count.total as f64),
        rows.len(),
    );
    note!("{trained}");
    tracing::info!("{trained}, from step {}", training.position().step);
    tell(args, &training, &run, dir)?;
    let finished = training.is_done() && dir.join("model").is_dir();
    let mut steps = Steps::new(run.settings.steps, training.position().step);
    let observe = |event: TrainingEvent| {
        log::note(&event);
        steps.show(event);
        if interrupted() { Err(Interrupted) } else { Ok(()) }
    };
    let evaluate = |model: &Llama| match &evaluation {
        Evaluation::Nothing => unreachable!("checked before the run began"),
        Evaluation::Text(tokens) => {
            let options = perplexity_options(&run, &compute);
            let (device, mut bar) = (&compute.device, Bar::default());
            let result = perplexity(model, tokens, context, &options, device, &mut bar)?;
            Ok(Score::Perplexity(result.perplexity))
        }
        Evaluation::Task(speaker, examples) => {
            let score = speaker.score(model, examples, &compute);
            let score = score.map_err(|error| match error.downcast::<Interrupted>() {
                Ok(interrupted) => TrainError::Interrupted(interrupted),
                Err(error) => TrainError::Evaluation(error.into()),
            })?;
            Ok(Score::Accuracy(score.accuracy))
        }
    };
    let device = compute.device.clone().autodiff();
    let outcome = training.run(&rows, &device, compute.execution(), evaluate, observe);
    steps.finish();
    match &outcome {
        Ok(()) if training.is_out_of_patience() => {
            note!("ended at step {}: no longer better", training.position().step);
        }
        Ok(()) => {}
        Err(error) => tracing::warn!("{error}"),
    }
    if let (Err(TrainError::Interrupted(_)), false) = (&outcome, is_part()) {
        note!("saved; `welore-cli train --resume {}` goes on", dir.display());
    }
    outcome?;
    let model = dir.join("model");
    if !finished {
        // Hours after it was looked at first.
        check_model(&model, false)?;
        write_model(&training, &run, &model)?;
        tracing::info!("done at step {}", training.position().step);
    }
    if run.track_gradients.is_some() {
        gradients::sum_up(dir, &model)?;
    }
    write_page(&args.page, &format!("Training {}", run.base().display()), |page| {
        if let Some(plan) = read_plan(run.base())? {
            page.plan(&plan);
        }
        add_run(page, dir)
    })?;
    report(args, &training, &model)
}

/// Tells what of a run its user may not expect.
fn tell(args: &TrainArgs, training: &Training<Llama>, run: &RunFile, dir: &Path) -> Result<()> {
    let (step, missing) = (training.position().step, training.missing_metrics());
    match step {
        _ if args.resume.is_none() => {}
        0 => note!("no checkpoint yet: from the start"),
        _ => note!("going on from step {step}"),
    }
    if missing > 0 {
        let file = dir.join("metrics.jsonl");
        tell!("warning: {} lacks {missing} of {step} steps", file.display());
    }
    if run.settings.trainable == Trainable::Lora && read_plan(run.base())?.is_some() {
        note!(
            "note: adapters on a compressed model multiply its factors out, so the model written \
             is dense"
        );
    }
    Ok(())
}

/// Writes the resulting model, in the type of the one that training started from: the best
/// one if models were evaluated, else the last.
fn write_model(training: &Training<Llama>, run: &RunFile, target: &Path) -> Result<()> {
    let dtype = first_dtype(&Checkpoint::open(run.base())?)?;
    let model = training.best_model()?.valid();
    // The sum of a weight and an adapter is dense, and both are of one type.
    let dense = run.settings.trainable == Trainable::Lora;
    let model = if dense { in_f32(model).materialize() } else { model };
    let plan = read_plan(run.base())?.filter(|_| !dense);
    let position = training.position();
    let what = match run.settings.trainable {
        Trainable::Lrc => "its LRCs",
        Trainable::Nlrc => "its dense projections",
        Trainable::Galore => "all parameters, by GaLore",
        Trainable::Full | Trainable::Lora => "all parameters",
    };
    let (steps, tokens) = (position.step, format::count(position.tokens));
    let how = format!("{what}, {steps} steps, {tokens} tokens, by {MADE_BY}");
    let compressed = plan.as_ref().map(|plan| (plan, how.as_str()));
    write_new_llama(&model, dtype, run.base(), compressed, target)
}

/// The model with all parameters in f32.
fn in_f32(model: Llama) -> Llama {
    struct Cast;
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| tensor.cast(FloatDType::F32))
        }
    }
    model.map(&mut Cast)
}

fn report(args: &TrainArgs, training: &Training<Llama>, model: &Path) -> Result<()> {
    let (position, count) = (training.position(), training.count());
    let best = position.best;
    if args.json {
        return format::print_json(&json!({
            "model": model.display().to_string(),
            "steps": position.step,
            "tokens": position.tokens,
            "trainable": count.trainable,
            "parameters": count.total,
            "best": best.map(|score| json!({ score.name(): score.value() })),
        }));
    }
    say!(
        "{} steps, {} tokens; the model is in {}",
        position.step,
        format::count(position.tokens),
        model.display()
    );
    Ok(())
}
