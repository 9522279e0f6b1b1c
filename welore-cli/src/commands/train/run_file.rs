//! What a run directory says of itself, in `run.json`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use welore_burn::checkpoint::{CheckpointError, write_file};
use welore_burn::data::TaskKind;
use welore_burn::train::TrainSettings;

use crate::args::TrainStartArgs;
use crate::commands::{in_file, read_artifact};
use crate::failure::WrongInput;

const RUN_FILE: &str = "run.json";

/// Everything that decides what a run does.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunFile {
    /// Model directory that training starts from.
    pub base: PathBuf,
    /// What identifies that model: a digest of its files.
    pub base_digest: String,
    /// What is trained on.
    pub data: Source,
    /// What identifies its contents, as tokens.
    pub data_digest: String,
    /// Text that is evaluated on.
    pub eval_text: Option<PathBuf>,
    /// Most blocks or examples of an evaluation.
    pub eval_blocks: Option<usize>,
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

impl RunFile {
    /// Reads the file of a run.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(RUN_FILE);
        let run: Self = in_file(serde_json::from_str(&read_artifact(&path)?), &path)?;
        // People edit files; nothing may be built on settings that cannot be.
        in_file(run.settings.check(), &path)?;
        Ok(run)
    }

    /// Writes the file of a run.
    pub fn write(&self, dir: &Path) -> Result<()> {
        Ok(write_file(dir.join(RUN_FILE), serde_json::to_string_pretty(self)?.as_bytes())?)
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
    pub fn refuse_changes(&self, args: &TrainStartArgs) -> Result<()> {
        let given = args.settings.over(self.settings.clone());
        let (ours, theirs) = (serde_json::to_value(&self.settings)?, serde_json::to_value(&given)?);
        let mut changes = Vec::new();
        differences("", &ours, &theirs, &mut changes);
        if args.eval_blocks.is_some_and(|blocks| Some(blocks) != self.eval_blocks) {
            changes.push("--eval-blocks".into());
        }
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
