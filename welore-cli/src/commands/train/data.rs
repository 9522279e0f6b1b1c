//! The data that a run trains on and is evaluated on. Training data is read once and kept as tokens
//! in `RUN/tokens`.

use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::Result;
use welore_burn::data::{Task, TaskExample, Texts, TokenRows, read_rows, write_rows};
use welore_burn::files::{LARGEST_CONFIG, read_input, write_file};
use welore_burn::model::DecoderConfig;
use welore_burn::train::{RunFile, RunSource};

use crate::args::{BosArg, TrainStartArgs};
use crate::failure::WrongInput;
use crate::shared::beginning::Beginning;
use crate::shared::task::Speaker;
use crate::shared::text::{TextReader, all_texts_of, tell_of_lessons, texts_of};
use crate::shared::writing::TEMPLATE_FILE;

const TOKENS_FILE: &str = "tokens";

/// Whether it was said what is learnt of conversations.
static TOLD: Once = Once::new();

/// The data to train on, as it was read.
pub enum TrainingData {
    Text(PathBuf, Texts),
    Task(Task),
}

/// The data to evaluate on, as it was read.
pub enum EvaluationData {
    Nothing,
    Text(PathBuf, Texts),
    Task(Vec<TaskExample>),
}

/// The data that a run is evaluated on.
pub enum Evaluation {
    Nothing,
    Text(Vec<u32>),
    Task(Box<Speaker>, Vec<TaskExample>),
}

/// What a row is called: an example of a task, or a window of a text.
pub fn row_name(is_task: bool) -> &'static str {
    if is_task { "example" } else { "window" }
}

/// The data of a run as tokens.
pub struct Inputs {
    pub rows: TokenRows,
    pub evaluation: Evaluation,
    /// The text that is only watched, if the run is evaluated and has one.
    pub watched: Option<Vec<u32>>,
}

/// Where the data is, according to the arguments.
pub fn source_of(args: &TrainStartArgs) -> Result<RunSource> {
    check_names(args)?;
    match (&args.text[..], args.task, &args.data) {
        ([path], _, _) => Ok(RunSource::Text(path.clone())),
        ([_, _, ..], _, _) => Ok(RunSource::Texts(args.text.clone())),
        ([], Some(name), Some(path)) => Ok(RunSource::Task { name, path: path.clone() }),
        _ => Err(WrongInput::with_hint(
            "there is nothing to train on",
            "give --text FILE, or --task NAME --data PATH",
        )
        .into()),
    }
}

impl TrainingData {
    /// Reads the data.
    pub fn read(source: &RunSource) -> Result<Self> {
        Ok(match source {
            RunSource::Text(path) => Self::Text(path.clone(), texts_of(path)?),
            RunSource::Texts(paths) => Self::Text(named(source), all_texts_of(paths)?),
            RunSource::Task { name, path } => Self::Task(Task::read(*name, path)?),
        })
    }

    /// Whether it is text, of which windows may begin with BOS.
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text(_, Texts::Documents(_)))
    }

    /// The rows to train on.
    pub fn rows(&self, reader: &TextReader, seq_len: usize) -> Result<TokenRows> {
        let pair = |example: &TaskExample| {
            let mut response = reader.tokenizer.encode(&example.response)?;
            response.extend(reader.end);
            Ok((reader.tokenizer.encode_prompt(&example.prompt)?, response))
        };
        match self {
            Self::Text(_, Texts::Documents(documents)) => {
                Ok(TokenRows::windows(reader.windows(documents, seq_len)?, seq_len))
            }
            Self::Text(path, Texts::Conversations(all)) => {
                let (rows, cut) = reader.lessons(path, all, seq_len)?;
                // A dry run makes the rows twice.
                TOLD.call_once(|| tell_of_lessons(path, all.len(), cut, seq_len));
                Ok(rows)
            }
            Self::Task(task) => {
                let pairs = task.train.iter().map(pair).collect::<Result<Vec<_>>>()?;
                Ok(TokenRows::responses(pairs, seq_len))
            }
        }
    }

    /// The examples to evaluate on, if it is a task.
    fn into_test(self) -> EvaluationData {
        match self {
            Self::Text(..) => EvaluationData::Nothing,
            Self::Task(task) => EvaluationData::Task(task.test),
        }
    }
}

impl EvaluationData {
    /// What a new run is evaluated on: the given text, or else the test examples of its task.
    pub fn of(run: &RunFile, text: Option<(PathBuf, Texts)>, data: TrainingData) -> Self {
        match (run.options.eval_every, text) {
            (0, _) => Self::Nothing,
            (_, Some((path, texts))) => Self::Text(path, texts),
            (_, None) => data.into_test(),
        }
    }

    /// The same for a resumed run.
    fn again(run: &RunFile) -> Result<Self> {
        match (run.options.eval_every, &run.eval_text) {
            (0, _) => Ok(Self::Nothing),
            (_, Some(path)) => {
                check_there(path)?;
                Ok(Self::Text(path.clone(), texts_of(path)?))
            }
            (_, None) if run.data.is_task() => {
                run.data.paths().iter().try_for_each(|path| check_there(path))?;
                Ok(TrainingData::read(&run.data)?.into_test())
            }
            (_, None) => Ok(Self::Nothing),
        }
    }

    /// The data in the form that is evaluated, with its digest.
    pub fn prepare(
        self,
        run: &RunFile,
        reader: TextReader,
        config: &DecoderConfig,
    ) -> Result<(Evaluation, Option<String>)> {
        match self {
            Self::Nothing => Ok((Evaluation::Nothing, None)),
            Self::Text(path, texts) => {
                let (tokens, digest) = tokens_of(&reader, &path, &texts)?;
                Ok((Evaluation::Text(tokens), Some(digest)))
            }
            Self::Task(mut examples) => {
                examples.truncate(run.eval_windows.unwrap_or(usize::MAX));
                let mut digest = blake3::Hasher::new();
                for text in examples.iter().flat_map(|example| [&example.prompt, &example.response])
                {
                    digest.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
                }
                let speaker = Box::new(Speaker::new(reader.tokenizer, config));
                let digest = digest.finalize().to_hex().to_string();
                Ok((Evaluation::Task(speaker, examples), Some(digest)))
            }
        }
    }
}

/// The tokens of a text that is evaluated, and their digest.
pub fn tokens_of(reader: &TextReader, path: &Path, texts: &Texts) -> Result<(Vec<u32>, String)> {
    let tokens = reader.tokens(&reader.documents(path, texts)?)?;
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    Ok((tokens, blake3::hash(&bytes).to_hex().to_string()))
}

/// Keeps the rows of a run.
pub fn keep(rows: &TokenRows, dir: &Path) -> Result<()> {
    Ok(write_rows(dir.join(TOKENS_FILE), rows)?)
}

/// Keeps the chat template of a run, if it is not the model's own: the run reads conversations with it
/// when it is resumed, and its model gets it.
pub fn keep_template(file: Option<&Path>, dir: &Path) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    Ok(write_file(dir.join(TEMPLATE_FILE), &read_input(file, LARGEST_CONFIG)?)?)
}

/// The chat template that a run kept.
pub fn kept_template(dir: &Path) -> Option<PathBuf> {
    Some(dir.join(TEMPLATE_FILE)).filter(|file| file.is_file())
}

/// The data of a resumed run, which must be unchanged, and whether the run still had its rows.
pub fn again(run: &RunFile, config: &DecoderConfig, dir: &Path) -> Result<(Inputs, bool)> {
    let reader = TextReader::open(&run.base, config, BosArg::Off)?;
    let mut reader = reader.with_template(kept_template(dir).as_deref());
    reader.beginning = Beginning::of_run(run.bos, None);
    let (rows, had_rows) = rows_again(run, &reader, dir)?;
    let watched = watched_again(run, &reader)?;
    let (evaluation, digest) = EvaluationData::again(run)?.prepare(run, reader, config)?;
    match digest == run.eval_digest {
        true => Ok((Inputs { rows, evaluation, watched }, had_rows)),
        false => Err(changed(run.eval_text.as_deref().unwrap_or(run.data.path()))),
    }
}

/// The text that the run watches, which must be unchanged.
fn watched_again(run: &RunFile, reader: &TextReader) -> Result<Option<Vec<u32>>> {
    let Some(path) = run.watch_text.as_deref().filter(|_| run.options.eval_every > 0) else {
        return Ok(None);
    };
    check_there(path)?;
    let (tokens, digest) = tokens_of(reader, path, &texts_of(path)?)?;
    match run.watch_digest.as_ref() == Some(&digest) {
        true => Ok(Some(tokens)),
        false => Err(changed(path)),
    }
}

/// The rows that the run kept, or the same rows made again from the data; and whether it had them.
fn rows_again(run: &RunFile, reader: &TextReader, dir: &Path) -> Result<(TokenRows, bool)> {
    if let Ok(rows) = read_rows(dir.join(TOKENS_FILE))
        && rows.digest() == run.data_digest
    {
        return Ok((rows, true));
    }
    run.data.paths().iter().try_for_each(|path| check_there(path))?;
    let rows = TrainingData::read(&run.data)?.rows(reader, run.options.seq_len)?;
    if rows.digest() != run.data_digest {
        return Err(changed(&named(&run.data)));
    }
    Ok((rows, false))
}

/// The names of all files of the data, for messages.
pub fn named(source: &RunSource) -> PathBuf {
    let names = source.paths().iter().map(|path| path.display().to_string());
    names.collect::<Vec<_>>().join(", ").into()
}

fn changed(path: &Path) -> anyhow::Error {
    let message = format!("{} is not what the run began with", path.display());
    WrongInput::with_hint(message, "restore it, or start a new run").into()
}

/// Checks that the data of a resumed run is still where it was.
fn check_there(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let message = format!("{}: the run began with this, and it is gone", path.display());
    Err(WrongInput::with_hint(message, "put it back, or start a new run").into())
}

/// Checks that a run file, which is JSON, can name everything that a new run reads, before any work
/// is done for it.
fn check_names(args: &TrainStartArgs) -> Result<()> {
    let makes_base = args.goal.target().is_some() || args.plan.is_some() || args.from_scratch;
    let model = args.model.as_ref().filter(|_| !makes_base);
    let others = [&args.data, &args.eval_text, &args.watch_text];
    for path in args.text.iter().chain(others.into_iter().flatten()).chain(model) {
        let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
        if whole.to_str().is_none() {
            let message = format!("{}: not UTF-8, which a run's paths must be", whole.display());
            return Err(WrongInput::with_hint(message, "use another name or directory").into());
        }
    }
    Ok(())
}

/// The same data under a path that does not depend on the working directory.
pub fn absolute(source: RunSource) -> Result<RunSource> {
    Ok(match source {
        RunSource::Text(path) => RunSource::Text(absolute_path(&path)?),
        RunSource::Texts(paths) => {
            let paths = paths.iter().map(|path| absolute_path(path));
            RunSource::Texts(paths.collect::<Result<_>>()?)
        }
        RunSource::Task { name, path } => RunSource::Task { name, path: absolute_path(&path)? },
    })
}

/// A path that does not depend on the working directory.
pub fn absolute_path(path: &Path) -> Result<PathBuf> {
    Ok(path.canonicalize().map_err(welore_burn::files::FileError::io(path))?)
}
