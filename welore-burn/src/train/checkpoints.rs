use std::fs;
use std::path::{Path, PathBuf};

use burn::module::{Module, ParamGroup};
use burn::optim::ModuleOptimizer;
use burn::store::ModuleRecord;
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::score::Score;
use crate::checkpoint::{CheckpointError, write_file};

/// How far a run has come. With the settings this says which block comes next, so no random
/// state needs saving: every epoch's order is a function of the seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Steps done.
    pub step: usize,
    /// Tokens seen.
    pub tokens: u64,
    /// Best score of an evaluation so far.
    pub best: Option<Score>,
    /// Step after which the last evaluation was made.
    pub evaluated: usize,
    /// Evaluations since the best one.
    pub stale: usize,
}

impl Position {
    /// Before the first step.
    pub fn start() -> Self {
        Self { step: 0, tokens: 0, best: None, evaluated: 0, stale: 0 }
    }

    /// Takes note of an evaluation; whether it is the best so far.
    pub fn note(&mut self, score: Score) -> bool {
        self.evaluated = self.step;
        let best = self.best.is_none_or(|best| score.is_better_than(best));
        if best {
            self.best = Some(score);
            self.stale = 0;
        } else {
            self.stale += 1;
        }
        best
    }
}

/// The checkpoints of a run: trainable parameters and optimizer only, the last one and the
/// best one. `last.json` and `best.json` name complete checkpoints and are replaced in one
/// step, so a kill at any moment leaves a readable one.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    origin: String,
}

const PARAMETERS: &str = "trainable.bpk";
const OPTIMIZER: &str = "optimizer.bpk";

#[derive(Serialize, Deserialize)]
struct Pointer {
    /// The model that the run began with.
    origin: String,
    directory: String,
    position: Position,
}

impl Checkpoints {
    /// The checkpoints under `dir`, which is made if needed. `origin` identifies the model
    /// that the run begins with, such as by a digest: checkpoints of others are refused.
    ///
    /// # Errors
    ///
    /// [`TrainError::Checkpoint`].
    pub fn open(dir: impl AsRef<Path>, origin: &str) -> Result<Self, TrainError> {
        let dir = dir.as_ref().to_path_buf();
        fs::create_dir_all(&dir).map_err(|source| io(&dir, source))?;
        Ok(Self { dir, origin: origin.into() })
    }

    /// Saves a checkpoint as the last one, and as the best one if `best`. Returns where.
    ///
    /// # Errors
    ///
    /// [`TrainError::Checkpoint`] and [`TrainError::Broken`]; the checkpoints there stay.
    pub fn save<M: Module>(
        &self,
        module: &M,
        group: &ParamGroup,
        optimizer: &ModuleOptimizer,
        position: Position,
        best: bool,
    ) -> Result<PathBuf, TrainError> {
        // The same step is saved again after an interruption. What is there may be named by a
        // pointer, and stays until that names another.
        let name = (0..)
            .map(|again| match again {
                0 => format!("step-{}", position.step),
                _ => format!("step-{}-{again}", position.step),
            })
            .find(|name| !self.dir.join(name).exists())
            .expect("names do not run out");
        let target = self.dir.join(&name);
        let staging = tempfile::Builder::new()
            .prefix(".welore-")
            .tempdir_in(&self.dir)
            .map_err(|source| io(&self.dir, source))?;
        let path = staging.path();
        let parameters = module
            .clone()
            .into_record_group(group.clone())
            .into_bytes()
            .map_err(|error| broken(&target, PARAMETERS, error))?;
        let state = optimizer.into_bytes().map_err(|error| broken(&target, OPTIMIZER, error))?;
        for (file, bytes) in [(PARAMETERS, parameters), (OPTIMIZER, state)] {
            write_file(path.join(file), &bytes).map_err(|error| match error {
                CheckpointError::Io { source, .. } => io(&target.join(file), source),
                other => other.into(),
            })?;
        }
        fs::rename(path, &target).map_err(|source| io(&target, source))?;
        let _renamed = staging.keep();
        let pointer = serde_json::to_vec_pretty(&Pointer {
            origin: self.origin.clone(),
            directory: name,
            position,
        })
        .expect("numbers and strings always serialize");
        if best {
            write_file(self.dir.join("best.json"), &pointer)?;
        }
        write_file(self.dir.join("last.json"), &pointer)?;
        self.remove_others();
        Ok(target)
    }

    /// How far the last checkpoint is, and where it is, if there is one.
    ///
    /// # Errors
    ///
    /// [`TrainError::Broken`], [`TrainError::Foreign`].
    pub fn last(&self) -> Result<Option<(Position, PathBuf)>, TrainError> {
        let Some(pointer) = self.pointer("last.json")? else { return Ok(None) };
        if pointer.origin != self.origin {
            return Err(TrainError::Foreign { path: self.dir.join("last.json") });
        }
        Ok(Some((pointer.position, self.dir.join(pointer.directory))))
    }

    /// Puts the best checkpoint's parameters in place, if there is one.
    ///
    /// # Errors
    ///
    /// [`TrainError::Broken`].
    pub fn load_best<M: Module>(&self, module: M) -> Result<M, TrainError> {
        match self.pointer("best.json")? {
            Some(pointer) => load_parameters(module, &self.dir.join(pointer.directory)),
            None => Ok(module),
        }
    }

    /// Puts the last checkpoint's parameters and optimizer state in place. Parameters get the
    /// ids they had, which the optimizer's state is keyed by.
    ///
    /// # Errors
    ///
    /// [`TrainError::NoCheckpoint`], [`TrainError::Broken`], [`TrainError::Foreign`].
    pub fn load_last<M: Module>(
        &self,
        module: M,
        optimizer: ModuleOptimizer,
    ) -> Result<(M, ModuleOptimizer, Position), TrainError> {
        let (position, dir) =
            self.last()?.ok_or_else(|| TrainError::NoCheckpoint { path: self.dir.clone() })?;
        let module = load_parameters(module, &dir)?;
        let optimizer =
            optimizer.load(dir.join(OPTIMIZER)).map_err(|error| broken(&dir, OPTIMIZER, error))?;
        Ok((module, optimizer, position))
    }

    fn pointer(&self, file: &str) -> Result<Option<Pointer>, TrainError> {
        let path = self.dir.join(file);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io(&path, source)),
        };
        let pointer: Pointer = serde_json::from_slice(&text).map_err(|error| {
            TrainError::Broken { path: path.clone(), reason: error.to_string() }
        })?;
        // A pointer names a checkpoint beside it, nothing else.
        if !pointer.directory.starts_with("step-") || pointer.directory.contains(['/', '\\']) {
            let reason = format!("`{}` is not a checkpoint", pointer.directory);
            return Err(TrainError::Broken { path, reason });
        }
        Ok(Some(pointer))
    }

    /// Removes checkpoints that no pointer names, and what killed runs left. Failing to is no
    /// reason to stop a run.
    fn remove_others(&self) {
        let named: Vec<String> = ["last.json", "best.json"]
            .iter()
            .filter_map(|file| Some(self.pointer(file).ok()??.directory))
            .collect();
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let stale = name.starts_with("step-") || name.starts_with(".welore-");
            if stale && !named.contains(&name) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn load_parameters<M: Module>(module: M, dir: &Path) -> Result<M, TrainError> {
    let record =
        ModuleRecord::load(dir.join(PARAMETERS)).map_err(|error| broken(dir, PARAMETERS, error))?;
    module
        .try_load_record(record.allow_partial(true))
        .map_err(|error| broken(dir, PARAMETERS, error))
}

fn io(path: &Path, source: std::io::Error) -> TrainError {
    CheckpointError::Io { path: path.into(), source }.into()
}

fn broken(dir: &Path, file: &str, error: impl std::fmt::Display) -> TrainError {
    TrainError::Broken { path: dir.join(file), reason: error.to_string() }
}
