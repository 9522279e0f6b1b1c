//! `train`: fine-tune a model on a text or a task, by default only its low-rank components.

mod log;
mod place;
mod run_file;
mod source;
mod start;

use std::path::Path;

use anyhow::{Context, Result};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{FloatDType, Tensor};
use serde_json::json;
use welore_burn::checkpoint::{
    Checkpoint, DEFAULT_SHARD_BYTES, OutputDir, PLAN_FILE, ShardWriter, copy_companions,
    save_module, write_file,
};
use welore_burn::data::{TaskExample, TokenRows};
use welore_burn::eval::{PerplexityOptions, check_text, perplexity};
use welore_burn::llama::{Llama, open_llama, read_plan};
use welore_burn::progress::Interrupted;
use welore_burn::train::{
    RunPlace, Score, TrainError, Trainable, Training, TrainingEvent, trainable_paths,
};

use super::in_file;
use super::task::Speaker;
use crate::args::TrainArgs;
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::terminal::{Bar, Steps, interrupted};
use crate::{format, memory};
use place::Place;
use run_file::RunFile;

/// Runs the command.
pub fn run(args: TrainArgs) -> Result<()> {
    memory::keep_pages();
    match (&args.resume, &args.start.output) {
        (Some(dir), _) => {
            let run = RunFile::read(dir)?;
            run.refuse_changes(&args)?;
            let _place = Place::of_run(dir)?;
            let compute = Compute::choose(&args.compute)?.with_dtype(run.dtype)?;
            train(&args, Prepared::open(run, compute, dir, true)?, dir)
        }
        (None, Some(dir)) => {
            let compute = Compute::choose(&args.compute)?;
            let new = start::start(&args, dir)?;
            let prepared = Prepared::open(RunFile::read(dir)?, compute, dir, false)?;
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
    fn open(run: RunFile, compute: Compute, dir: &Path, resume: bool) -> Result<Self> {
        run.check_base()?;
        let rows = source::rows(&run, dir)?;
        let evaluation = source::same_evaluation(&run)?;
        let device = compute.device.clone().autodiff();
        let opened = open_llama(run.base(), &device)?;
        let masters = trainable_paths(opened.skeleton(), run.settings.trainable);
        let is_master = |path: &str| masters.contains(path);
        let loaded = opened.load(compute.dtype, is_master, &mut Bar::default())?;
        let context = loaded.config.max_position_embeddings;
        if run.settings.seq_len > context {
            let message = format!("--seq-len: the model's context is {context} tokens");
            return Err(WrongInput { message, hint: None }.into());
        }
        if let (Evaluation::Text(tokens), Some(path)) = (&evaluation, &run.eval_text) {
            let options = perplexity_options(&run, &compute);
            in_file(check_text(&loaded.model, tokens, context, &options), path)?;
        }
        let identity = run.identity()?;
        let place = RunPlace { dir, origin: &identity, resume };
        let training = Training::open(loaded.model, run.settings.clone(), place)?;
        in_file(training.check_rows(&rows), run.data.path())?;
        Ok(Self { run, compute, rows, evaluation, context, training })
    }
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
    eprintln!("{trained}");
    tracing::info!("{trained}, from step {}", training.position().step);
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
            eprintln!("ended at step {}: no longer better", training.position().step);
        }
        Ok(()) => {}
        Err(error) => tracing::warn!("{error}"),
    }
    if let Err(TrainError::Interrupted(_)) = &outcome {
        eprintln!("saved; `welore-cli train --resume {}` goes on", dir.display());
    }
    outcome?;
    let model = dir.join("model");
    if !finished {
        write_model(&training, &run, &model)?;
        tracing::info!("done at step {}", training.position().step);
    }
    report(args, &training, &model)
}

/// Writes the resulting model, in the type of the one that training started from: the best
/// one if models were evaluated, else the last.
fn write_model(training: &Training<Llama>, run: &RunFile, target: &Path) -> Result<()> {
    let base = Checkpoint::open(run.base())?;
    let first = base.names().next().and_then(|name| base.meta(name));
    let dtype = first.context("the base has tensors")?.dtype;
    let output = OutputDir::create(target, true)?;
    let mut writer = ShardWriter::new(output.path(), DEFAULT_SHARD_BYTES);
    let model = training.best_model()?.valid();
    // The sum of a weight and an adapter is dense, and both are of one type.
    let dense = run.settings.trainable == Trainable::Lora;
    let model = if dense { in_f32(model).materialize() } else { model };
    save_module(&model, dtype, &mut writer, &mut Bar::default())?;
    writer.finish()?;
    copy_companions(run.base(), output.path())?;
    if let Some(plan) = read_plan(run.base())?.filter(|_| !dense) {
        write_file(output.path().join(PLAN_FILE), plan.to_json().as_bytes())?;
    }
    Ok(output.commit()?)
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
