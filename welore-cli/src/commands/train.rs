//! `train`: fine-tune a model on text, by default only its low-rank components.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::json;
use welore_burn::checkpoint::{
    Checkpoint, DEFAULT_SHARD_BYTES, OutputDir, PLAN_FILE, ShardWriter, copy_companions,
    save_module, write_file,
};
use welore_burn::data::{TextTokenizer, TokenBlocks, read_text};
use welore_burn::eval::{PerplexityOptions, perplexity};
use welore_burn::llama::{Llama, load_llama, read_plan};
use welore_burn::progress::Interrupted;
use welore_burn::surgery::compress_directory;
use welore_burn::train::{TrainError, TrainSettings, Training, TrainingEvent};

use super::compress::{Goal, goal, plan_of};
use super::{blocks_at_once, device, in_file, open_model, read_artifact};
use crate::args::{TrainArgs, TrainStartArgs};
use crate::failure::WrongInput;
use crate::format;
use crate::terminal::{Bar, Steps, interrupted};

/// What a run directory says of itself, in `run.json`.
#[derive(Debug, Serialize, Deserialize)]
struct RunFile {
    /// Model directory that training starts from.
    base: PathBuf,
    /// Text that is trained on.
    text: PathBuf,
    /// Text that is evaluated on.
    eval_text: Option<PathBuf>,
    /// Most blocks of an evaluation.
    eval_blocks: Option<usize>,
    /// Everything else.
    settings: TrainSettings,
}

const RUN_FILE: &str = "run.json";

/// Runs the command.
pub fn run(args: TrainArgs) -> Result<()> {
    match (&args.resume, &args.start.output) {
        (Some(dir), _) => train(&args, Prepared::open(dir, true)?, dir),
        (None, Some(dir)) => {
            // Only a directory that was new or empty gets past this.
            start(&args.start, dir)?;
            let prepared = Prepared::open(dir, false);
            if prepared.is_err() {
                // A run that never began; only what `start` made is in it.
                fs::remove_dir_all(dir)?;
            }
            train(&args, prepared?, dir)
        }
        (None, None) => unreachable!("clap asks for one of --resume and --output"),
    }
}

/// Everything a run needs, read and checked.
struct Prepared {
    run: RunFile,
    blocks: TokenBlocks,
    /// Tokens of the evaluation text.
    evaluation: Vec<u32>,
    context: usize,
    training: Training<Llama>,
}

impl Prepared {
    fn open(dir: &Path, resume: bool) -> Result<Self> {
        let run = read_run(dir)?;
        let tokenizer = TextTokenizer::open(&run.base)?;
        let seq_len = run.settings.seq_len;
        let blocks = TokenBlocks::new(tokenizer.encode(&read_text(&run.text)?)?, seq_len);
        let evaluation = match &run.eval_text {
            Some(path) => tokenizer.encode(&read_text(path)?)?,
            None => Vec::new(),
        };
        let loaded = load_llama(&run.base, &device().autodiff(), &mut Bar::default())?;
        let context = loaded.config.max_position_embeddings;
        if seq_len > context {
            let message = format!("--seq-len: the model's context is {context} tokens");
            return Err(WrongInput { message, hint: None }.into());
        }
        let training = Training::open(loaded.model, run.settings.clone(), dir, resume)?;
        in_file(training.check_blocks(&blocks), &run.text)?;
        Ok(Self { run, blocks, evaluation, context, training })
    }
}

fn train(args: &TrainArgs, prepared: Prepared, dir: &Path) -> Result<()> {
    let Prepared { run, blocks, evaluation, context, mut training } = prepared;
    let count = training.count();
    eprintln!(
        "training {} of {} parameters ({})",
        format::count(count.trainable),
        format::count(count.total),
        format::percent(count.trainable as f64 / count.total as f64),
    );
    let options = PerplexityOptions {
        seq_len: run.settings.seq_len,
        blocks: run.eval_blocks,
        at_once: blocks_at_once(),
    };
    let evaluate = |model: &Llama| -> Result<f64, TrainError> {
        let mut bar = Bar::default();
        let result = perplexity(model, &evaluation, context, &options, &device(), &mut bar)?;
        Ok(result.perplexity)
    };
    let mut steps = Steps::new(run.settings.steps, training.position().step);
    let observe = |event: TrainingEvent| {
        steps.show(event);
        if interrupted() { Err(Interrupted) } else { Ok(()) }
    };
    let outcome = training.run(&blocks, &device().autodiff(), evaluate, observe);
    steps.finish();
    if let Err(TrainError::Interrupted(_)) = &outcome {
        eprintln!("saved; `welore-cli train --resume {}` goes on", dir.display());
    }
    outcome?;
    let model = write_model(&training, &run, dir)?;
    report(args, &training, &model)
}

fn read_run(dir: &Path) -> Result<RunFile> {
    let path = dir.join(RUN_FILE);
    let run: RunFile = in_file(serde_json::from_str(&read_artifact(&path)?), &path)?;
    // People edit files; nothing may be built on settings that cannot be.
    in_file(run.settings.check(), &path)?;
    Ok(run)
}

/// Prepares a run directory: settings, and the compressed model if one is asked for.
fn start(args: &TrainStartArgs, dir: &Path) -> Result<()> {
    let (Some(model), Some(text)) = (&args.model, &args.text) else {
        unreachable!("clap asks for MODEL and --text without --resume")
    };
    let settings = args.settings();
    settings.check()?;
    let goal = goal(args.plan.as_deref(), args.err, &args.target)?;
    if settings.eval_every > 0 && args.eval_text.is_none() {
        let message = "--eval-every: there is no --eval-text to evaluate on".into();
        return Err(WrongInput { message, hint: None }.into());
    }
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        let message = format!("{} exists and is not empty", dir.display());
        let hint = format!("`welore-cli train --resume {}` goes on with a run", dir.display());
        return Err(WrongInput { message, hint: Some(hint) }.into());
    }
    for text in [Some(text), args.eval_text.as_ref()].into_iter().flatten() {
        read_text(text)?;
    }
    let checkpoint = open_model(model)?;
    let base = match goal {
        None => model.canonicalize()?,
        Some(goal) => compress(&checkpoint, goal, args, dir)?,
    };
    let absolute = |path: &PathBuf| path.canonicalize();
    let run = RunFile {
        base,
        text: absolute(text)?,
        eval_text: args.eval_text.as_ref().map(absolute).transpose()?,
        eval_blocks: args.eval_blocks,
        settings,
    };
    fs::create_dir_all(dir)?;
    Ok(write_file(dir.join(RUN_FILE), serde_json::to_string_pretty(&run)?.as_bytes())?)
}

fn compress(
    checkpoint: &Checkpoint,
    goal: Goal,
    args: &TrainStartArgs,
    dir: &Path,
) -> Result<PathBuf> {
    let output = OutputDir::create(dir.join("base"), false)?;
    let plan = plan_of(goal, checkpoint, args.target.policy, &args.selection)?;
    compress_directory(checkpoint, &plan, &output, DEFAULT_SHARD_BYTES, &mut Bar::default())?;
    output.commit()?;
    Ok(dir.join("base").canonicalize()?)
}

/// Writes `RUN/model` in the type of the model that training started from.
fn write_model(training: &Training<Llama>, run: &RunFile, dir: &Path) -> Result<PathBuf> {
    use burn::module::Module;
    let base = Checkpoint::open(&run.base)?;
    let first = base.names().next().and_then(|name| base.meta(name));
    let dtype = first.map_or(Dtype::F32, |meta| meta.dtype);
    let target = dir.join("model");
    let output = OutputDir::create(&target, true)?;
    let mut writer = ShardWriter::new(output.path(), DEFAULT_SHARD_BYTES);
    save_module(&training.model().valid(), dtype, &mut writer, &mut Bar::default())?;
    writer.finish()?;
    copy_companions(&run.base, output.path())?;
    if let Some(plan) = read_plan(&run.base)? {
        write_file(output.path().join(PLAN_FILE), plan.to_json().as_bytes())?;
    }
    output.commit()?;
    Ok(target)
}

fn report(args: &TrainArgs, training: &Training<Llama>, model: &Path) -> Result<()> {
    let (position, count) = (training.position(), training.count());
    if args.json {
        return format::print_json(&json!({
            "model": model.display().to_string(),
            "steps": position.step,
            "tokens": position.tokens,
            "trainable": count.trainable,
            "parameters": count.total,
            "best_perplexity": position.best_perplexity,
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
