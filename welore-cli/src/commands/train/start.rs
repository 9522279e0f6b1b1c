//! Prepares a run directory: the model to start from, the data as tokens, the settings.

use std::path::{Path, PathBuf};

use anyhow::Result;
use safetensors::Dtype;
use welore_burn::checkpoint::{
    CheckpointError, DEFAULT_SHARD_BYTES, OutputDir, ShardWriter, copy_companions, save_module,
};
use welore_burn::data::{Task, TextTokenizer, read_documents};
use welore_burn::llama::{LlamaConfig, read_config};
use welore_burn::surgery::{WriteSettings, compress_directory};
use welore_burn::train::{TrainSettings, Trainable};

use super::place::NewPlace;
use super::run_file::{Origin, RunFile, Source, check_warmup};
use super::{check_context, check_options, source};
use crate::args::{DtypeArg, TrainArgs, TrainStartArgs};
use crate::commands::card::write_card;
use crate::commands::compress::{Goal, goal, plan_of};
use crate::commands::{open_model, read_artifact};
use crate::devices::host;
use crate::failure::WrongInput;
use crate::models;
use crate::terminal::Bar;

/// Puts into a new run directory all that training needs to begin.
pub fn start(args: &TrainArgs, dir: &Path) -> Result<NewPlace> {
    models::check_outside_cache(dir)?;
    let request = Request::check(&args.start, args.compute.dtype.unwrap_or_default())?;
    if !args.start.from_scratch {
        // Compressing comes first and may take long.
        check_context(args, request.settings.seq_len, &read_config(&request.model)?)?;
    }
    let place = NewPlace::create(dir)?;
    prepare(&args.start, request, dir)?;
    Ok(place)
}

/// What a run is asked to be, checked as far as it costs nothing.
pub struct Request {
    /// Directory of the model to start from.
    pub model: PathBuf,
    /// What is trained on.
    pub data: Source,
    dtype: DtypeArg,
    /// How, but for the steps of epochs.
    pub settings: TrainSettings,
    /// What it is compressed to first.
    pub goal: Option<Goal>,
}

impl Request {
    /// Checks the arguments of a new run.
    pub fn check(args: &TrainStartArgs, dtype: DtypeArg) -> Result<Self> {
        let Some(model) = &args.model else { unreachable!("clap asks for MODEL") };
        let data = source_of(args)?;
        let settings = args.settings.over(defaults(args));
        settings.check()?;
        if args.epochs.is_some_and(|epochs| !(epochs > 0.0 && epochs <= 1e6)) {
            return refuse("--epochs: must be a number above 0, and at most 1000000");
        }
        check_options(&args.settings, settings.trainable)?;
        if args.track_gradients.is_some() && settings.trainable == Trainable::Lora {
            return refuse("--track-gradients: with --trainable lora no projection trains");
        }
        if args.epochs.is_none() {
            check_warmup(&settings)?;
        }
        let ranks = args.rank_options();
        if args.goal.target().is_none() && !ranks.is_empty() {
            return refuse(&format!("{}: for --err only", ranks.join(", ")));
        }
        let goal = goal(args.plan.as_deref(), args.goal.target(), &args.target)?;
        match &data {
            Source::Text(path) => drop(read_documents(path)?),
            Source::Task { name, path } => drop(Task::read(*name, path)?),
        }
        if let Some(path) = &args.eval_text {
            read_documents(path)?;
        }
        let model = match args.from_scratch {
            true => models::configuration_of(model)?,
            false => models::directory_of(model)?,
        };
        Ok(Self { model, data, dtype, settings, goal })
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
    let steps = args.settings.steps.unwrap_or(settings.steps);
    settings.warmup = settings.warmup.min(steps / 10);
    if args.eval_text.is_some() {
        settings.eval_every = steps;
    }
    settings
}

fn prepare(args: &TrainStartArgs, request: Request, dir: &Path) -> Result<()> {
    let Request { model, data, dtype, mut settings, goal } = request;
    let base = if args.from_scratch {
        random_model(&model, settings.seed, dir)?
    } else {
        let checkpoint = open_model(&model)?;
        match goal {
            None => absolute(&model)?,
            Some(goal) => {
                let output = OutputDir::create(dir.join("base"), false)?;
                let plan = plan_of(goal, &checkpoint, &args.selection)?;
                let mut bar = Bar::default();
                let settings = WriteSettings::default();
                compress_directory(&checkpoint, &plan, &output, &settings, &mut bar)?;
                let name = args.model.as_deref().unwrap_or(&model).to_string_lossy();
                write_card(output.path(), &model, &name, &plan)?;
                output.commit()?;
                absolute(&dir.join("base"))?
            }
        }
    };
    let rows = source::prepare(&data, &base, settings.seq_len, dir)?;
    settings = with_epochs(args, settings, rows.len());
    let data = match data {
        Source::Text(path) => Source::Text(absolute(&path)?),
        Source::Task { name, path } => Source::Task { name, path: absolute(&path)? },
    };
    let origin = Origin { base: base.clone(), data, data_digest: rows.digest() };
    let mut run = RunFile::new(dir, origin, settings)?;
    run.eval_text = args.eval_text.as_deref().map(absolute).transpose()?;
    run.eval_blocks = args.eval_blocks;
    run.dtype = dtype;
    run.track_gradients = args.track_gradients;
    run.check()?;
    run.eval_digest = source::evaluation(&run.with_base(base))?.1;
    run.write(dir)
}

/// Settings with the steps that the epochs take, if those were asked for.
pub fn with_epochs(
    args: &TrainStartArgs,
    mut settings: TrainSettings,
    rows: usize,
) -> TrainSettings {
    let Some(epochs) = args.epochs else { return settings };
    let rows_a_step = settings.batch_size * settings.accumulate;
    let steps = (epochs * rows as f64 / rows_a_step as f64).ceil() as usize;
    settings.steps = steps.max(1);
    if args.settings.warmup.is_none() {
        settings.warmup = settings.warmup.min(steps / 10);
    }
    if args.settings.eval_every.is_none() && settings.eval_every > 0 {
        settings.eval_every = settings.steps;
    }
    settings
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|source| CheckpointError::Io { path: path.into(), source }.into())
}

/// The directory that a model with random weights is described in: the file itself may be named
/// instead.
pub fn described_in(from: &Path) -> &Path {
    match from.file_name() {
        Some(name) if name == "config.json" => match from.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        },
        _ => from,
    }
}

/// The configuration of a model with random weights, and the type that it is stored in, with all
/// that such a model needs.
pub fn described_model(from: &Path) -> Result<(LlamaConfig, Dtype)> {
    let config = read_config(from)?;
    let dtype = stored_type(from)?;
    TextTokenizer::open(from)?;
    check_size(&config)?;
    Ok((config, dtype))
}

/// Writes a model with random weights to `RUN/base`: what `config.json` describes, in the type
/// that it names.
fn random_model(from: &Path, seed: u64, dir: &Path) -> Result<PathBuf> {
    let from = described_in(from);
    let (config, dtype) = described_model(from)?;
    let device = host();
    let model = config.init(&device);
    model.initialize(seed, &device);
    let output = OutputDir::create(dir.join("base"), false)?;
    let mut writer = ShardWriter::new(output.path(), DEFAULT_SHARD_BYTES);
    save_module(&model, dtype, &mut writer, &mut Bar::default())?;
    writer.finish()?;
    copy_companions(from, output.path())?;
    output.commit()?;
    absolute(&dir.join("base"))
}

/// The most parameters that are drawn at random; a hostile configuration can ask for any number.
const MOST_PARAMETERS: u128 = 1 << 34;

fn check_size(config: &LlamaConfig) -> Result<()> {
    let size = |size: usize| size as u128;
    let attention = 2 * (config.num_attention_heads + config.num_key_value_heads) * config.head_dim;
    let layer = size(config.hidden_size) * size(attention + 3 * config.intermediate_size);
    let embedding = size(config.vocab_size) * size(config.hidden_size);
    let parameters = embedding + size(config.num_hidden_layers) * layer;
    if parameters <= MOST_PARAMETERS {
        return Ok(());
    }
    refuse(&format!("config.json: {parameters} parameters are too many to train from scratch"))
}

/// The type that a configuration wants weights stored in.
fn stored_type(dir: &Path) -> Result<Dtype> {
    let config: serde_json::Value =
        serde_json::from_str(&read_artifact(&dir.join("config.json"))?)?;
    let name = ["dtype", "torch_dtype"].iter().find_map(|key| config[*key].as_str());
    match name {
        None | Some("float32") => Ok(Dtype::F32),
        Some("float16") => Ok(Dtype::F16),
        Some("bfloat16") => Ok(Dtype::BF16),
        Some(other) => refuse(&format!("config.json: weights of type `{other}` are not supported")),
    }
}
