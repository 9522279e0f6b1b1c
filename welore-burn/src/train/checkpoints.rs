use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use burn::module::{Module, ParamGroup};
use burn::optim::ModuleOptimizer;
use burn::store::ModuleRecord;
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::options::TrainOptions;
use super::score::{Evaluated, Score};
use crate::files::{FileError, LARGEST_CONFIG, check_input, read_existing, replace_file};
use crate::words::number_of;

/// How far a run has come. Together with the options this determines which rows come next, so no
/// random state needs saving: every epoch's order is a function of the seed.
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
    /// Score of the model that the run began with. `None` if it was not evaluated, as in runs of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Score>,
    /// Perplexity of the watched text at the start, if there is such a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched_start: Option<f64>,
    /// Perplexity of the watched text where the score was best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watched_best: Option<f64>,
}

impl Position {
    /// Before the first step.
    pub fn start() -> Self {
        Self {
            step: 0,
            tokens: 0,
            best: None,
            evaluated: 0,
            stale: 0,
            start: None,
            watched_start: None,
            watched_best: None,
        }
    }

    /// Records an evaluation. Returns whether it is the best so far.
    pub fn note(&mut self, evaluated: Evaluated) -> bool {
        let Evaluated { score, watched } = evaluated;
        self.evaluated = self.step;
        if self.step == 0 {
            (self.start, self.watched_start) = (Some(score), watched);
        }
        let best = self.best.is_none_or(|best| score.is_better_than(best));
        if best {
            (self.best, self.watched_best) = (Some(score), watched);
            self.stale = 0;
        } else {
            self.stale += 1;
        }
        best
    }

    /// Whether a model of the run scored better than the one that it began with; `None` if that one
    /// was not evaluated.
    pub fn has_improved(&self) -> Option<bool> {
        Some(self.best?.is_better_than(self.start?))
    }

    /// Whether a run with these options has nothing left to do.
    pub fn is_last(&self, options: &TrainOptions) -> bool {
        let all = self.step >= options.steps && !self.owes_evaluation(options);
        all || self.is_out_of_patience(options)
    }

    /// Whether an evaluation comes before the next step.
    pub(super) fn owes_evaluation(&self, options: &TrainOptions) -> bool {
        let (step, every) = (self.step, options.eval_every);
        if step == 0 {
            // Alone, the score of the start would make it the result of the run.
            return self.start.is_none() && (1..=options.steps).contains(&every);
        }
        every > 0 && step > self.evaluated && step.is_multiple_of(every)
    }

    /// Whether there were as many evaluations without a better one as the patience allows.
    pub(super) fn is_out_of_patience(&self, options: &TrainOptions) -> bool {
        options.patience.is_some_and(|patience| self.stale >= patience)
    }

    /// Checks that a run with these options can be at this position.
    fn check(&self, options: &TrainOptions) -> Result<(), String> {
        let Self { step, best, evaluated, stale, start, .. } = *self;
        if step > options.steps {
            let steps = number_of(options.steps, "step");
            return Err(format!("it is at step {step} of a run of {steps}"));
        }
        let every = options.eval_every;
        // Evaluations are made every `every` steps and none is left out, but the last one may still
        // be due. Earlier versions did not evaluate the start.
        let after_start = evaluated.checked_div(every).unwrap_or(0);
        let evaluations = after_start.saturating_add(usize::from(start.is_some()));
        let due = every == 0 || (evaluated..=evaluated.saturating_add(every)).contains(&step);
        let fits = due
            && evaluated == after_start * every
            && (start.is_none() || every > 0)
            && best.is_some() == (evaluations > 0)
            && stale <= evaluations.saturating_sub(1);
        match fits {
            true => Ok(()),
            false => Err(format!("its evaluations are not those of a run at step {step}")),
        }
    }
}

/// The last and the best checkpoint of a run, which hold only trainable parameters and optimizer
/// state. `last.json` and `best.json` name complete checkpoints with the digests of their files and
/// are replaced atomically, so a kill at any moment leaves a readable checkpoint. A run has a
/// `last.json` from its beginning, so that a lost one is noticed.
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    origin: String,
}

const PARAMETERS: &str = "trainable.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const LAST: &str = "last.json";
const BEST: &str = "best.json";

#[derive(Serialize, Deserialize)]
struct Pointer {
    /// The model that the run began with.
    origin: String,
    /// `None` before the first checkpoint.
    directory: Option<String>,
    /// BLAKE3 of the files in the directory, by name.
    #[serde(default)]
    digests: BTreeMap<String, String>,
    position: Position,
}

/// A checkpoint that a pointer names.
struct Saved {
    dir: PathBuf,
    digests: BTreeMap<String, String>,
    position: Position,
}

impl Checkpoints {
    /// The checkpoints of the run in a directory. `origin` identifies the model that the run begins
    /// with, for example by a digest: checkpoints of runs from other models are refused.
    pub fn of_run(run: impl AsRef<Path>, origin: &str) -> Self {
        Self { dir: run.as_ref().join("checkpoints"), origin: origin.into() }
    }

    /// Creates the directory for checkpoints, before the first one.
    ///
    /// # Errors
    ///
    /// [`TrainError::File`].
    pub fn begin(&self) -> Result<(), TrainError> {
        fs::create_dir_all(&self.dir).map_err(|source| io(&self.dir, source))?;
        let (directory, digests) = (None, BTreeMap::new());
        let origin = self.origin.clone();
        self.point(&[LAST], &Pointer { origin, directory, digests, position: Position::start() })
    }

    /// Saves a checkpoint as the last one, and as the best one if `best`. Returns its directory.
    ///
    /// # Errors
    ///
    /// [`TrainError::File`]; [`TrainError::Broken`], [`TrainError::Lost`] and
    /// [`TrainError::Foreign`] for `best.json`. Existing checkpoints stay.
    pub fn save<M: Module>(
        &self,
        module: &M,
        group: &ParamGroup,
        optimizer: &ModuleOptimizer,
        position: Position,
        best: bool,
    ) -> Result<PathBuf, TrainError> {
        // The same step is saved again after an interruption. A pointer may name the existing
        // directory, which stays until the pointer names another.
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
        let mut digests = BTreeMap::new();
        for (file, bytes) in [(PARAMETERS, parameters), (OPTIMIZER, state)] {
            digests.insert(file.to_string(), blake3::hash(&bytes).to_hex().to_string());
            replace_file(path.join(file), &bytes).map_err(|error| match error {
                FileError::Io { source, .. } => io(&target.join(file), source),
                other => other.into(),
            })?;
        }
        fs::rename(path, &target).map_err(|source| io(&target, source))?;
        let _renamed = staging.keep();
        let origin = self.origin.clone();
        let pointer = Pointer { origin, directory: Some(name), digests, position };
        let files: &[&str] = if best { &[BEST, LAST] } else { &[LAST] };
        self.point(files, &pointer)?;
        self.remove_others(&position)?;
        Ok(target)
    }

    /// Position and directory of the last checkpoint of a run with these options, if there is one.
    /// Changes nothing.
    ///
    /// # Errors
    ///
    /// [`TrainError::Broken`], [`TrainError::Foreign`], [`TrainError::Lost`], [`TrainError::File`].
    pub fn last(&self, options: &TrainOptions) -> Result<Option<(Position, PathBuf)>, TrainError> {
        // The result will be the best checkpoint; a run should not find out later that the file
        // that names it cannot be read, or is missing.
        let best = self.saved(BEST)?;
        let Some(saved) = self.saved(LAST)? else {
            return match self.pointer(LAST)?.is_none() && self.holds_steps() {
                true => Err(TrainError::Lost { path: self.dir.join(LAST) }),
                false => Ok(None),
            };
        };
        saved.position.check(options).map_err(|reason| self.wrong_position(reason))?;
        if saved.position.best.is_some() && best.is_none() {
            return Err(TrainError::Lost { path: self.dir.join(BEST) });
        }
        Ok(Some((saved.position, saved.dir)))
    }

    /// Loads the best checkpoint's parameters into a module, if there is one.
    ///
    /// # Errors
    ///
    /// [`TrainError::Broken`], [`TrainError::Damaged`], [`TrainError::Foreign`],
    /// [`TrainError::File`].
    pub fn load_best<M: Module>(&self, module: M) -> Result<M, TrainError> {
        match self.saved(BEST)? {
            Some(saved) => saved.load_parameters(module),
            None => Ok(module),
        }
    }

    /// Loads the last checkpoint's parameters and optimizer state. Parameters get their former ids,
    /// by which the optimizer's state is keyed.
    ///
    /// # Errors
    ///
    /// [`TrainError::NoCheckpoint`], [`TrainError::Broken`], [`TrainError::Damaged`],
    /// [`TrainError::Foreign`], [`TrainError::File`].
    pub fn load_last<M: Module>(
        &self,
        module: M,
        optimizer: ModuleOptimizer,
    ) -> Result<(M, ModuleOptimizer, Position), TrainError> {
        let saved =
            self.saved(LAST)?.ok_or_else(|| TrainError::NoCheckpoint { path: self.dir.clone() })?;
        if let Some(best) = self.saved(BEST)? {
            best.check(PARAMETERS)?;
        }
        saved.check(OPTIMIZER)?;
        let module = saved.load_parameters(module)?;
        let optimizer = optimizer
            .load(saved.dir.join(OPTIMIZER))
            .map_err(|error| broken(&saved.dir, OPTIMIZER, error))?;
        Ok((module, optimizer, saved.position))
    }

    /// An error about the last checkpoint's position.
    pub(super) fn wrong_position(&self, reason: String) -> TrainError {
        TrainError::Broken { path: self.dir.join(LAST), reason }
    }

    /// The checkpoint of this run that a pointer names.
    fn saved(&self, file: &str) -> Result<Option<Saved>, TrainError> {
        let Some(pointer) = self.pointer(file)? else { return Ok(None) };
        let path = self.dir.join(file);
        if pointer.origin != self.origin {
            return Err(TrainError::Foreign { path });
        }
        let Pointer { directory, digests, position, .. } = pointer;
        let Some(directory) = directory else { return Ok(None) };
        if step_of(&directory) != Some(position.step) {
            let reason = format!("it is at step {} and names `{directory}`", position.step);
            return Err(TrainError::Broken { path, reason });
        }
        Ok(Some(Saved { dir: self.dir.join(directory), digests, position }))
    }

    fn pointer(&self, file: &str) -> Result<Option<Pointer>, TrainError> {
        let path = self.dir.join(file);
        let text = match read_existing(&path, LARGEST_CONFIG) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(error) => return Err(broken(&self.dir, file, error)),
        };
        let pointer: Pointer =
            serde_json::from_slice(&text).map_err(|error| broken(&self.dir, file, error))?;
        // A pointer may only name a checkpoint next to it.
        match pointer.directory.as_deref().filter(|name| step_of(name).is_none()) {
            Some(name) => {
                let reason = format!("`{name}` is not a checkpoint");
                Err(TrainError::Broken { path, reason })
            }
            None => Ok(Some(pointer)),
        }
    }

    /// Writes a pointer under each of these names.
    fn point(&self, files: &[&str], pointer: &Pointer) -> Result<(), TrainError> {
        let text = serde_json::to_vec_pretty(pointer)
            .expect("numbers, strings and maps of strings always serialize");
        for file in files {
            replace_file(self.dir.join(file), &text)?;
        }
        Ok(())
    }

    fn holds_steps(&self) -> bool {
        let mut entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.any(|entry| step_of(&entry.file_name().to_string_lossy()).is_some())
    }

    /// Removes checkpoints that no pointer names. If a pointer is missing, cannot be read or is
    /// that of another run, nothing is removed. A failed removal does not stop the run.
    fn remove_others(&self, position: &Position) -> Result<(), TrainError> {
        let mut named = Vec::new();
        for (file, must_exist) in [(LAST, true), (BEST, position.best.is_some())] {
            match self.saved(file)? {
                Some(saved) => named.push(saved.dir),
                None if must_exist => return Err(TrainError::Lost { path: self.dir.join(file) }),
                None => {}
            }
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let is_step = step_of(&entry.file_name().to_string_lossy()).is_some();
            // A link is no directory here.
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_step && is_dir && !named.contains(&entry.path()) {
                remove(&entry.path());
            }
        }
        Ok(())
    }
}

/// Removes a checkpoint. Files that are not its own stay, and so does their directory.
fn remove(checkpoint: &Path) {
    for file in [PARAMETERS, OPTIMIZER] {
        let _ = fs::remove_file(checkpoint.join(file));
    }
    let _ = fs::remove_dir(checkpoint);
}

impl Saved {
    /// Checks that a file is the one that was saved.
    fn check(&self, file: &str) -> Result<(), TrainError> {
        let path = self.dir.join(file);
        let mut content = blake3::Hasher::new();
        check_input(&path, u64::MAX).map_err(|error| match error {
            FileError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
                TrainError::Lost { path: path.clone() }
            }
            other => other.into(),
        })?;
        File::open(&path)
            .and_then(|mut file| std::io::copy(&mut file, &mut content))
            .map_err(|source| io(&path, source))?;
        match self.digests.get(file) == Some(&content.finalize().to_hex().to_string()) {
            true => Ok(()),
            false => Err(TrainError::Damaged { path }),
        }
    }

    fn load_parameters<M: Module>(&self, module: M) -> Result<M, TrainError> {
        self.check(PARAMETERS)?;
        let record = ModuleRecord::load(self.dir.join(PARAMETERS))
            .map_err(|error| broken(&self.dir, PARAMETERS, error))?;
        module
            .try_load_record(record.allow_partial(true))
            .map_err(|error| broken(&self.dir, PARAMETERS, error))
    }
}

/// The step of a checkpoint, from the name of its directory: `step-6`, or `step-6-1` if it was
/// saved again.
fn step_of(name: &str) -> Option<usize> {
    let mut numbers = name.strip_prefix("step-")?.splitn(2, '-');
    let step = numbers.next()?.parse().ok()?;
    let again = numbers.next().map(str::parse::<usize>);
    again.is_none_or(|again| again.is_ok()).then_some(step)
}

fn io(path: &Path, source: std::io::Error) -> TrainError {
    FileError::Io { path: path.into(), source }.into()
}

fn broken(dir: &Path, file: &str, error: impl std::fmt::Display) -> TrainError {
    TrainError::Broken { path: dir.join(file), reason: error.to_string() }
}
