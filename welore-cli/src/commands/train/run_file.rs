//! What a run directory says of itself, in `run.json`.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use welore_burn::checkpoint::{CheckpointError, write_file};
use welore_burn::data::TaskKind;
use welore_burn::train::{TrainError, TrainSettings};

use super::check_options;
use crate::args::{DtypeArg, TrainArgs};
use crate::commands::{in_file, read_artifact};
use crate::failure::WrongInput;

pub const RUN_FILE: &str = "run.json";

/// Everything that decides what a run does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunFile {
    /// Model directory that training starts from; within the run's, relative to it.
    base: PathBuf,
    /// What identifies that model: a digest of its files.
    pub base_digest: String,
    /// What is trained on.
    pub data: Source,
    /// What identifies its contents, as tokens.
    pub data_digest: String,
    /// Text that is evaluated on.
    pub eval_text: Option<PathBuf>,
    /// What identifies the evaluation's contents.
    pub eval_digest: Option<String>,
    /// Most blocks or examples of an evaluation.
    pub eval_blocks: Option<usize>,
    /// Type that is computed in.
    #[serde(default)]
    pub dtype: DtypeArg,
    /// Steps between records of the gradients. Decides no step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track_gradients: Option<NonZeroUsize>,
    /// Everything else.
    pub settings: TrainSettings,
}

/// What a run trains on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A text, or documents.
    Text(PathBuf),
    /// A task's files.
    Task {
        /// Which one.
        name: TaskKind,
        /// Where it is.
        path: PathBuf,
    },
}

impl Source {
    /// Where it is.
    pub fn path(&self) -> &Path {
        match self {
            Self::Text(path) | Self::Task { path, .. } => path,
        }
    }
}

/// Where a new run's files say it comes from.
#[derive(Debug)]
pub struct Origin {
    /// Model directory that training starts from.
    pub base: PathBuf,
    /// What is trained on.
    pub data: Source,
    /// A digest of its rows.
    pub data_digest: String,
}

impl RunFile {
    /// Describes a new run in `dir`.
    pub fn new(dir: &Path, origin: Origin, settings: TrainSettings) -> Result<Self> {
        let Origin { base, data, data_digest } = origin;
        let base_digest = model_digest(&base)?;
        // A run that has its own base can be moved.
        let within = dir
            .canonicalize()
            .ok()
            .and_then(|dir| base.strip_prefix(dir).ok().map(Path::to_path_buf));
        let base = within.unwrap_or(base);
        Ok(Self {
            base,
            base_digest,
            data,
            data_digest,
            eval_text: None,
            eval_digest: None,
            eval_blocks: None,
            dtype: DtypeArg::default(),
            track_gradients: None,
            settings,
        })
    }

    /// Reads the file of a run.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(RUN_FILE);
        if !path.exists() {
            let message = format!("{} is not a run: it has no run.json", dir.display());
            let hint = Some("`welore-cli train MODEL --text FILE -o RUN` starts one".into());
            return Err(WrongInput { message, hint }.into());
        }
        let text = read_artifact(&path)?;
        let mut run: Self = serde_json::from_str(&text).map_err(|error| WrongInput {
            message: format!("{}: not the file of a run: {error}", path.display()),
            hint: None,
        })?;
        // People edit files; nothing may be built on settings that cannot be.
        in_file(run.check(), &path)?;
        run.base = dir.join(&run.base);
        Ok(run)
    }

    /// The run with its base at an absolute path.
    pub fn with_base(&self, base: PathBuf) -> Self {
        Self { base, ..self.clone() }
    }

    /// The model directory that training starts from.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Checks every setting, alone and with the others.
    pub fn check(&self) -> Result<(), TrainError> {
        let is_task = matches!(self.data, Source::Task { .. });
        check_settings(&self.settings, is_task || self.eval_text.is_some(), self.eval_blocks)
    }

    /// Writes the file of a run.
    pub fn write(&self, dir: &Path) -> Result<()> {
        Ok(write_file(dir.join(RUN_FILE), serde_json::to_string_pretty(self)?.as_bytes())?)
    }

    /// What identifies the run: all that decides its steps, but no path.
    pub fn identity(&self) -> Result<String> {
        let decisive = serde_json::to_vec(&(
            &self.base_digest,
            &self.data_digest,
            &self.eval_digest,
            self.eval_blocks,
            self.dtype,
            &self.settings,
        ))?;
        Ok(blake3::hash(&decisive).to_hex().to_string())
    }

    /// Checks that the base is the model that the run began with.
    pub fn check_base(&self) -> Result<()> {
        if model_digest(&self.base)? == self.base_digest {
            return Ok(());
        }
        let message = format!("{} is not the model that the run began with", self.base.display());
        Err(WrongInput { message, hint: None }.into())
    }

    /// Refuses options that are not those of the run: it would be another run.
    pub fn refuse_changes(&self, TrainArgs { start: args, compute, .. }: &TrainArgs) -> Result<()> {
        check_options(&args.settings, self.settings.trainable)?;
        let given = args.settings.over(self.settings.clone());
        let (ours, theirs) = (serde_json::to_value(&self.settings)?, serde_json::to_value(&given)?);
        let mut changes = Vec::new();
        differences("", &ours, &theirs, &mut changes);
        if args.eval_blocks.is_some_and(|blocks| Some(blocks) != self.eval_blocks) {
            changes.push("--eval-blocks".into());
        }
        if args.track_gradients.is_some() && args.track_gradients != self.track_gradients {
            changes.push("--track-gradients".into());
        }
        if compute.dtype.is_some_and(|dtype| dtype != self.dtype) {
            changes.push(format!("--dtype (the run has {})", self.dtype.name()));
        }
        changes.extend(args.rank_options().into_iter().map(String::from));
        if changes.is_empty() {
            return Ok(());
        }
        let message = format!(
            "{}: not what the run began with, and a run cannot be changed",
            changes.join(", ")
        );
        let hint = Some("leave it out, or start a new run from RUN/model".into());
        Err(WrongInput { message, hint }.into())
    }
}

/// Checks every setting, alone and with the others. `evaluated` is whether there is anything to
/// evaluate on.
pub fn check_settings(
    settings: &TrainSettings,
    evaluated: bool,
    eval_blocks: Option<usize>,
) -> Result<(), TrainError> {
    settings.check()?;
    check_warmup(settings)?;
    let refuse = |option, reason: &str| Err(TrainError::Setting { option, reason: reason.into() });
    if settings.eval_every > 0 && !evaluated {
        return refuse("--eval-every", "there is no --eval-text to evaluate on");
    }
    if eval_blocks == Some(0) {
        return refuse("--eval-blocks", "must be at least 1");
    }
    Ok(())
}

/// Refuses a warm-up that would not end within the run.
pub fn check_warmup(settings: &TrainSettings) -> Result<(), TrainError> {
    let TrainSettings { warmup, steps, .. } = settings;
    if warmup <= steps {
        return Ok(());
    }
    let reason = format!("{warmup} steps of warm-up are more than the {steps} of the run");
    Err(TrainError::Setting { option: "--warmup", reason })
}

/// Options by which two settings differ, with the run's own value.
fn differences(option: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in ours {
                let name = key.replace('_', "-");
                let name = if option.is_empty() { name } else { format!("{option}-{name}") };
                differences(&name, value, &theirs[key], found);
            }
        }
        _ if ours == theirs => {}
        // The only setting whose option says the contrary.
        _ if option == "shuffle" => found.push("--no-shuffle".into()),
        _ => found.push(format!("--{option} (the run has {ours})")),
    }
}

/// A digest of the files that make a model what it is.
pub fn model_digest(dir: &Path) -> Result<String> {
    let io = |path: &Path| {
        let path = path.to_path_buf();
        move |source| CheckpointError::Io { path, source }
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .map_err(io(dir))?
        .map(|entry| Ok(entry.map_err(io(dir))?.path()))
        .collect::<Result<_, CheckpointError>>()?;
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".safetensors") || name == "config.json" || name == "tokenizer.json"
    });
    files.sort();
    let mut digest = blake3::Hasher::new();
    for file in files {
        digest.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        let mut opened = std::fs::File::open(&file).map_err(io(&file))?;
        let mut content = blake3::Hasher::new();
        std::io::copy(&mut opened, &mut content).map_err(io(&file))?;
        digest.update(content.finalize().as_bytes());
    }
    Ok(digest.finalize().to_hex().to_string())
}
