//! The file that describes a run, in its directory.

use std::io::{Error, ErrorKind};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::options::TrainOptions;
use crate::artifact::{Header, in_words};
use crate::data::TaskKind;
use crate::files::{FileError, LARGEST_CONFIG, check_input, read_existing, replace_file};
use crate::forms::Precision;
use crate::model::Bos;

/// The file of a run directory that describes the run.
pub const RUN_FILE: &str = "run.json";

const FORMAT: &str = "welore-run";
const VERSION: u32 = 2;

/// Everything that decides what a run does: `run.json` in its directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    /// `welore-run`. Files of the first version lack it.
    #[serde(default = "format")]
    format: String,
    #[serde(default = "version")]
    version: u32,
    /// Model directory that training starts from. In the file it is relative to the run directory
    /// if it is within.
    pub base: PathBuf,
    /// Digest of that model's files; see [`model_digest`].
    pub base_digest: String,
    /// What the run trains on.
    pub data: RunSource,
    /// Digest of its contents, as tokens.
    pub data_digest: String,
    /// Text that the run evaluates on.
    #[serde(default)]
    pub eval_text: Option<PathBuf>,
    /// Digest of what the run evaluates on.
    #[serde(default)]
    pub eval_digest: Option<String>,
    /// The most windows or examples in an evaluation; `None` uses all.
    #[serde(default, rename = "eval_blocks")]
    pub eval_windows: Option<usize>,
    /// Tokens in a window of a text that is evaluated. `None` is as many as in training, as in runs
    /// of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_seq_len: Option<usize>,
    /// Text that is measured with every evaluation, but decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch_text: Option<PathBuf>,
    /// Digest of its tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch_digest: Option<String>,
    /// What begins with the token that begins texts, in the texts that the run reads. `None` for
    /// nothing, as in runs of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<Bos>,
    /// Type that the model computes in.
    #[serde(default)]
    pub dtype: Precision,
    /// Steps between records of the gradients. Does not change any step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub track_gradients: Option<NonZeroUsize>,
    /// Whether the run fails if no evaluation is better than that of its start. Does not change any
    /// step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub must_improve: bool,
    /// Numbers of steps that the run had before it was extended, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extended_from: Vec<usize>,
    /// How the model is trained.
    #[serde(rename = "settings")]
    pub options: TrainOptions,
}

fn format() -> String {
    FORMAT.into()
}

fn version() -> u32 {
    VERSION
}

/// What a run trains on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum RunSource {
    /// A text, or documents.
    Text(PathBuf),
    /// Several of them, one after the other.
    Texts(Vec<PathBuf>),
    /// The files of a task.
    Task {
        /// Which task.
        name: TaskKind,
        /// Where it is.
        path: PathBuf,
    },
}

impl RunSource {
    /// Where it is: all files of texts, or the file or directory of a task.
    pub fn paths(&self) -> &[PathBuf] {
        match self {
            Self::Text(path) | Self::Task { path, .. } => std::slice::from_ref(path),
            Self::Texts(paths) => paths,
        }
    }

    /// The first of these.
    pub fn path(&self) -> &Path {
        self.paths().first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// Whether it is a task, which has its own examples to evaluate on.
    pub fn is_task(&self) -> bool {
        matches!(self, Self::Task { .. })
    }
}

/// Why a run file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunFileError {
    /// The directory has no run file.
    #[error("{path} is not a run: it has no run.json", path = dir.display())]
    NotARun {
        /// The directory.
        dir: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// The file is something else.
    #[error("{path}: not the file of a run: {reason}", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Written by a newer version.
    #[error("{path}: run format version {version} is not supported (only up to version {VERSION})", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// An option has a value that is not allowed.
    #[error("{path}: {source}", path = path.display())]
    Option {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<TrainError>,
    },
}

impl RunFile {
    /// Describes a new run that starts from the model in the directory `base`, whose digest is
    /// `base_digest`, and trains on data with the digest `data_digest`.
    pub fn new(
        base: PathBuf,
        base_digest: String,
        data: RunSource,
        data_digest: String,
        options: TrainOptions,
    ) -> Self {
        Self {
            format: format(),
            version: version(),
            base,
            base_digest,
            data,
            data_digest,
            eval_text: None,
            eval_digest: None,
            eval_windows: None,
            eval_seq_len: None,
            watch_text: None,
            watch_digest: None,
            bos: None,
            dtype: Precision::default(),
            track_gradients: None,
            must_improve: false,
            extended_from: Vec::new(),
            options,
        }
    }

    /// Reads the file of a run directory. Fields that an earlier version did not write get their
    /// defaults.
    ///
    /// # Errors
    ///
    /// [`RunFileError`], also for values of options that are not allowed: people edit files.
    pub fn read(dir: &Path) -> Result<Self, RunFileError> {
        let path = dir.join(RUN_FILE);
        let bytes = read_existing(&path, LARGEST_CONFIG)?;
        let bytes = bytes.ok_or_else(|| RunFileError::NotARun { dir: dir.into() })?;
        let broken = |reason: String| RunFileError::Broken { path: path.clone(), reason };
        let text = String::from_utf8(bytes).map_err(|_| broken("not UTF-8 text".into()))?;
        let header = Header::of(&text).map_err(|error| broken(in_words(&error)))?;
        // The first version has neither format nor version.
        match (header.format.as_str(), header.version) {
            ("", 0) | (FORMAT, VERSION) => {}
            (FORMAT, version) => return Err(RunFileError::Version { path, version }),
            (other, _) => return Err(broken(format!("its format is `{other}`"))),
        }
        let mut run: Self =
            serde_json::from_str(&text).map_err(|error| broken(in_words(&error)))?;
        (run.format, run.version) = (format(), version());
        run.check().map_err(|source| RunFileError::Option { path, source: source.into() })?;
        run.base = dir.join(&run.base);
        Ok(run)
    }

    /// Writes the file of the run in `dir`. A base within `dir` is written relative to it, so that
    /// the run can be moved.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`], also for a path that is not UTF-8, which JSON cannot hold.
    pub fn write(&self, dir: &Path) -> Result<(), FileError> {
        let whole = dir.canonicalize().unwrap_or_else(|_| dir.into());
        // A run that was read has its base under the path that it was read by.
        let within =
            [dir, whole.as_path()].into_iter().find_map(|dir| self.base.strip_prefix(dir).ok());
        let base = within.unwrap_or(&self.base).to_path_buf();
        let file = Self { base, ..self.clone() };
        let path = dir.join(RUN_FILE);
        let text = serde_json::to_string_pretty(&file).map_err(|_| {
            let reason = "one of its paths is not UTF-8";
            FileError::io(&path)(Error::new(ErrorKind::InvalidInput, reason))
        })?;
        replace_file(&path, text.as_bytes())
    }

    /// Checks every option, by itself and with the others.
    ///
    /// # Errors
    ///
    /// [`TrainError::Option`].
    pub fn check(&self) -> Result<(), TrainError> {
        let evaluated = self.data.is_task() || self.eval_text.is_some();
        check_run(&self.options, evaluated, self.eval_windows)?;
        let refuse = |name, reason: &str| Err(TrainError::Option { name, reason: reason.into() });
        if self.eval_seq_len.is_some_and(|seq_len| seq_len < 2) {
            return refuse("eval_seq_len", "a window needs at least 2 tokens");
        }
        if self.data.paths().is_empty() {
            return refuse("data", "there is nothing to train on");
        }
        let totals = self.extended_from.iter().chain([&self.options.steps]);
        match totals.is_sorted_by(|fewer, more| fewer < more) {
            true => Ok(()),
            false => refuse("steps", "a run can only be extended to more steps"),
        }
    }

    /// Whether it reads texts, to train on or to evaluate, and not only the examples of a task.
    pub fn reads_text(&self) -> bool {
        !self.data.is_task() || self.eval_text.is_some() || self.watch_text.is_some()
    }

    /// Tokens in a window of a text that is evaluated.
    pub fn eval_window(&self) -> usize {
        self.eval_seq_len.unwrap_or(self.options.seq_len)
    }

    /// Whether the run has more steps than it began with.
    pub fn is_extended(&self) -> bool {
        !self.extended_from.is_empty()
    }

    /// The same run with more steps. Steps that were taken stay as they are; for those to come, the
    /// learning rate is that of a run which had so many steps from its beginning.
    ///
    /// # Errors
    ///
    /// [`TrainError::Option`] if these are no more steps, or too many.
    pub fn extended(&self, steps: usize) -> Result<Self, TrainError> {
        let mut run = self.clone();
        run.extended_from.push(self.options.steps);
        run.options.steps = steps;
        run.check()?;
        Ok(run)
    }

    /// A digest that identifies the run: of everything that decides its steps, but of no path. An
    /// extended run is the one that it was.
    pub fn identity(&self) -> String {
        let steps = self.extended_from.first().copied().unwrap_or(self.options.steps);
        let mut decisive = serde_json::to_vec(&(
            &self.base_digest,
            &self.data_digest,
            &self.eval_digest,
            self.eval_windows,
            self.dtype,
            TrainOptions { steps, ..self.options.clone() },
        ))
        .expect("numbers and text serialize");
        if let Some(seq_len) = self.eval_seq_len {
            // Runs of earlier versions have none.
            decisive.extend(format!("eval_seq_len {seq_len}").bytes());
        }
        if let Some(bos) = self.bos {
            decisive.extend(format!("bos {bos:?}").bytes());
        }
        blake3::hash(&decisive).to_hex().to_string()
    }
}

/// Checks the options of a run, each by itself and with the others. `evaluated` is whether there is
/// anything to evaluate on.
///
/// # Errors
///
/// [`TrainError::Option`].
pub fn check_run(
    options: &TrainOptions,
    evaluated: bool,
    eval_windows: Option<usize>,
) -> Result<(), TrainError> {
    options.check()?;
    options.check_warmup()?;
    let refuse = |name, reason: &str| Err(TrainError::Option { name, reason: reason.into() });
    if options.eval_every > 0 && !evaluated {
        return refuse("eval_every", "there is no text to evaluate on");
    }
    if eval_windows == Some(0) {
        return refuse("eval_windows", "must be at least 1");
    }
    Ok(())
}

/// A digest of the files that define the model in a directory: weights, `config.json` and
/// `tokenizer.json`.
///
/// # Errors
///
/// [`FileError::Io`], and [`FileError::NotAFile`] for pipes, devices and directories of such names.
pub fn model_digest(dir: &Path) -> Result<String, FileError> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .map_err(FileError::io(dir))?
        .map(|entry| Ok(entry.map_err(FileError::io(dir))?.path()))
        .collect::<Result<_, FileError>>()?;
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".safetensors") || name == "config.json" || name == "tokenizer.json"
    });
    files.sort();
    let mut digest = blake3::Hasher::new();
    for file in files {
        digest.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        check_input(&file, u64::MAX)?;
        let mut opened = std::fs::File::open(&file).map_err(FileError::io(&file))?;
        let mut content = blake3::Hasher::new();
        std::io::copy(&mut opened, &mut content).map_err(FileError::io(&file))?;
        digest.update(content.finalize().as_bytes());
    }
    Ok(digest.finalize().to_hex().to_string())
}
