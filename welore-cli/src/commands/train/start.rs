//! Prepares a run directory: the model to start from, the data as tokens, the settings.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use safetensors::Dtype;
use welore_burn::checkpoint::{
    CheckpointError, DEFAULT_SHARD_BYTES, OutputDir, ShardWriter, save_module,
};
use welore_burn::data::{Task, TextTokenizer, read_documents, read_text};
use welore_burn::llama::{Llama, LlamaConfig, read_config};
use welore_burn::surgery::compress_directory;
use welore_burn::train::{TrainSettings, Trainable};

use super::run_file::{RunFile, Source, model_digest};
use super::source;
use crate::args::TrainStartArgs;
use crate::commands::compress::{Goal, goal, plan_of};
use crate::commands::{device, open_model};
use crate::failure::WrongInput;
use crate::terminal::Bar;

/// Makes a run directory that training can begin in. Leaves nothing if it cannot.
pub fn start(args: &TrainStartArgs, dir: &Path) -> Result<()> {
    let request = Request::check(args, dir)?;
    let existed = dir.is_dir();
    let outcome = prepare(args, request, dir);
    if outcome.is_err() && dir.is_dir() {
        // It was new or empty; all in it was made here.
        fs::remove_dir_all(dir)?;
        if existed {
            fs::create_dir(dir)?;
        }
    }
    outcome
}

/// What a run is asked to be, checked as far as it costs nothing.
struct Request {
    model: PathBuf,
    data: Source,
    settings: TrainSettings,
    goal: Option<Goal>,
}

impl Request {
    fn check(args: &TrainStartArgs, dir: &Path) -> Result<Self> {
        let Some(model) = args.model.clone() else { unreachable!("clap asks for MODEL") };
        let data = source_of(args)?;
        let settings = args.settings.over(defaults(args));
        settings.check()?;
        if args.epochs.is_some_and(|epochs| !(epochs.is_finite() && epochs > 0.0)) {
            return refuse("--epochs: must be a number above 0");
        }
        let goal = goal(args.plan.as_deref(), args.err, &args.target)?;
        let is_task = matches!(data, Source::Task { .. });
        if settings.eval_every > 0 && args.eval_text.is_none() && !is_task {
            return refuse("--eval-every: there is no --eval-text to evaluate on");
        }
        if args.eval_blocks == Some(0) {
            return refuse("--eval-blocks: must be at least 1");
        }
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            let message = format!("{} exists and is not empty", dir.display());
            let hint = format!("`welore-cli train --resume {}` goes on with a run", dir.display());
            return Err(WrongInput { message, hint: Some(hint) }.into());
        }
        match &data {
            Source::Text(path) => drop(read_documents(path)?),
            Source::Task { name, path } => drop(Task::read(*name, path)?),
        }
        if let Some(path) = &args.eval_text {
            read_text(path)?;
        }
        Ok(Self { model, data, settings, goal })
    }
}

fn refuse<T>(message: &str) -> Result<T> {
    Err(WrongInput { message: message.into(), hint: None }.into())
}

fn source_of(args: &TrainStartArgs) -> Result<Source> {
    match (&args.text, args.task, &args.data) {
        (Some(path), _, _) => Ok(Source::Text(path.clone())),
        (None, Some(task), Some(path)) => {
            Ok(Source::Task { name: task.into(), path: path.clone() })
        }
        _ => Err(WrongInput {
            message: "there is nothing to train on".into(),
            hint: Some("give --text FILE, or --task NAME --data PATH".into()),
        }
        .into()),
    }
}

/// The paper's settings, for continual pretraining or for tasks.
fn defaults(args: &TrainStartArgs) -> TrainSettings {
    let mut settings = TrainSettings::default();
    if args.task.is_some() {
        settings = TrainSettings { seq_len: 512, batch_size: 8, steps: 1000, ..settings };
    }
    if args.from_scratch {
        settings.trainable = Trainable::Full;
    }
    if let Some(steps) = args.settings.steps {
        settings.warmup = settings.warmup.min(steps / 10);
    }
    settings
}

fn prepare(args: &TrainStartArgs, request: Request, dir: &Path) -> Result<()> {
    let Request { model, data, mut settings, goal } = request;
    let base = if args.from_scratch {
        random_model(&model, settings.seed, dir)?
    } else {
        let checkpoint = open_model(&model)?;
        match goal {
            None => model.canonicalize()?,
            Some(goal) => {
                let output = OutputDir::create(dir.join("base"), false)?;
                let plan = plan_of(goal, &checkpoint, args.target.policy, &args.selection)?;
                let mut bar = Bar::default();
                compress_directory(&checkpoint, &plan, &output, DEFAULT_SHARD_BYTES, &mut bar)?;
                output.commit()?;
                dir.join("base").canonicalize()?
            }
        }
    };
    fs::create_dir_all(dir).map_err(|source| CheckpointError::Io { path: dir.into(), source })?;
    let prepared = source::prepare(&data, &base, settings.seq_len, dir)?;
    if let Some(epochs) = args.epochs {
        let rows_a_step = settings.batch_size * settings.accumulate;
        let steps = (epochs * prepared.rows as f64 / rows_a_step as f64).ceil() as usize;
        settings.steps = steps.max(1);
        if args.settings.warmup.is_none() {
            settings.warmup = settings.warmup.min(steps / 10);
        }
        settings.check()?;
    }
    let absolute = |path: &Path| path.canonicalize();
    let data = match data {
        Source::Text(path) => Source::Text(absolute(&path)?),
        Source::Task { name, path } => Source::Task { name, path: absolute(&path)? },
    };
    let run = RunFile {
        base_digest: model_digest(&base)?,
        base,
        data,
        data_digest: prepared.digest,
        eval_text: args.eval_text.as_deref().map(absolute).transpose()?,
        eval_blocks: args.eval_blocks,
        settings,
    };
    run.write(dir)
}

/// Writes a model with random weights to `RUN/base`: what `config.json` describes, in the type
/// that it names.
fn random_model(from: &Path, seed: u64, dir: &Path) -> Result<PathBuf> {
    // The file itself may be named instead of its directory.
    let from = match from.is_file() {
        true => from.parent().unwrap_or(from),
        false => from,
    };
    let config: LlamaConfig = read_config(from)?;
    TextTokenizer::open(from)?;
    let device = device();
    let model: Llama = config.init(&device);
    model.initialize(seed, &device);
    let output = OutputDir::create(dir.join("base"), false)?;
    let mut writer = ShardWriter::new(output.path(), DEFAULT_SHARD_BYTES);
    save_module(&model, stored_type(from)?, &mut writer, &mut Bar::default())?;
    writer.finish()?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "json")
            && !entry.file_name().to_string_lossy().contains("safetensors")
        {
            fs::copy(&path, output.path().join(entry.file_name()))?;
        }
    }
    output.commit()?;
    Ok(dir.join("base").canonicalize()?)
}

/// The type that a configuration wants weights stored in.
fn stored_type(dir: &Path) -> Result<Dtype> {
    let text = fs::read_to_string(dir.join("config.json"))?;
    let config: serde_json::Value = serde_json::from_str(&text)?;
    let name = ["dtype", "torch_dtype"].iter().find_map(|key| config[*key].as_str());
    match name {
        None | Some("float32") => Ok(Dtype::F32),
        Some("float16") => Ok(Dtype::F16),
        Some("bfloat16") => Ok(Dtype::BF16),
        Some(other) => refuse(&format!("config.json: weights of type `{other}` are not supported")),
    }
}
