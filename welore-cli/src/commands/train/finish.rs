//! The model that results from a run.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;
use welore_burn::adapters::is_adapter;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::files::{FileError, OutputDir, read_existing, replace_file};
use welore_burn::model::{LanguageModel, open_weights};
use welore_burn::plan::read_plan;
use welore_burn::train::{Position, RunFile, Score, Trainable, Training, model_digest};

use super::adapter;
use super::data::kept_template;
use crate::args::TrainArgs;
use crate::failure::{NotImproved, WrongInput};
use crate::shared::beginning::Beginning;
use crate::shared::card::MADE_BY;
use crate::shared::writing::{stored_types, write_model};
use crate::{format, output};

/// The file of a run directory with the digest of the model that the run wrote, and if the run was
/// extended, its number of steps.
const DIGEST: &str = "model.digest";

/// More bytes than a digest in hex and a number have.
const LARGEST_DIGEST: u64 = 1 << 10;

/// The directory of a run's model.
pub fn model_of(run: &Path) -> PathBuf {
    run.join("model")
}

/// What a run noted about the model that it wrote.
struct Noted {
    digest: String,
    /// Steps that the run had, if it was extended before.
    steps: Option<usize>,
}

/// What the run in a directory noted. Runs of earlier versions noted nothing, nor did one that was
/// killed between the model and its digest.
fn noted(dir: &Path) -> Result<Option<Noted>> {
    let Some(bytes) = read_existing(dir.join(DIGEST), LARGEST_DIGEST)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let mut words = text.split_ascii_whitespace();
    let digest = words.next().unwrap_or_default().to_string();
    Ok(Some(Noted { digest, steps: words.next().and_then(|steps| steps.parse().ok()) }))
}

/// Refuses anything else in the place of a run's model. Nothing may be there before the run
/// `is_done`, unless it was extended after it wrote one, and after that only a complete model: the
/// one that the run wrote, if it is known.
pub fn check_model(dir: &Path, run: &RunFile, is_done: bool) -> Result<()> {
    adapter::check_free(dir, run)?;
    let model = &model_of(dir);
    let Ok(found) = model.symlink_metadata() else { return Ok(()) };
    let is_model = || found.is_dir() && Checkpoint::open(model).is_ok();
    let is_ours = match noted(dir)? {
        Some(Noted { digest, .. }) => {
            (is_done || run.is_extended()) && is_model() && digest == model_digest(model)?
        }
        None => is_done && is_model(),
    };
    if is_ours {
        return Ok(());
    }
    let message = format!("{} is not what this run wrote", model.display());
    let hint = "move it away; the run writes its model there at the end";
    Err(WrongInput::with_hint(message, hint).into())
}

/// Whether the model of a run that is done has been written. It was checked before.
pub fn is_written(dir: &Path, run: &RunFile) -> Result<bool> {
    if !model_of(dir).is_dir() {
        return Ok(false);
    }
    // Before it was extended, an extended run may have written another one.
    let steps = noted(dir)?.and_then(|noted| noted.steps);
    Ok(!run.is_extended() || steps == Some(run.options.steps))
}

/// Checks that the model of an extended run can be replaced, if it has yet to be: not only after its
/// last step. `is_done` is whether the run, or what it was before it is extended now, is done.
pub fn check_replaceable(dir: &Path, run: &RunFile, is_done: bool) -> Result<()> {
    if run.is_extended() && !(is_done && is_written(dir, run)?) {
        OutputDir::check_free(model_of(dir), true)?;
    }
    Ok(())
}

/// Notes which model a run has written that is going to be extended, if it has not: from then on it
/// is replaced only if it is known.
pub fn keep_track(dir: &Path) -> Result<()> {
    let model = model_of(dir);
    if model.is_dir() && noted(dir)?.is_none() {
        replace_file(dir.join(DIGEST), format!("{}\n", model_digest(&model)?).as_bytes())?;
    }
    Ok(())
}

/// Writes the resulting model into the directory of its run, and notes its digest there. Only an
/// extended run replaces a model, the one that it wrote before.
pub fn write<M: LanguageModel>(training: &Training<M>, run: &RunFile, dir: &Path) -> Result<()> {
    let (model, digest) = (model_of(dir), dir.join(DIGEST));
    // If nothing can be written there, the digest of what is there stays.
    let output = OutputDir::create(&model, run.is_extended())?;
    // An earlier one is that of a model which was moved away.
    if let Err(error) = fs::remove_file(&digest)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(FileError::io(&digest)(error).into());
    }
    // Before the model: with that the run is finished.
    adapter::write(training, run, dir)?;
    write_result(training, run, dir, output)?;
    let steps = match run.is_extended() {
        true => format!(" {}", run.options.steps),
        false => String::new(),
    };
    Ok(replace_file(&digest, format!("{}{steps}\n", model_digest(&model)?).as_bytes())?)
}

/// Writes the resulting model, each tensor in the type that it had: the model with the best score
/// if there were evaluations, else the last one.
fn write_result<M: LanguageModel>(
    training: &Training<M>,
    run: &RunFile,
    dir: &Path,
    output: OutputDir,
) -> Result<()> {
    let trainable = run.options.trainable;
    let base = open_weights(&run.base)?;
    let plan = read_plan(&run.base)?.filter(|_| !trainable.merges());
    let plan = plan.map(|plan| match trainable.unpacks_factors() {
        true => plan.with_factors_unpacked(),
        false => plan,
    });
    let (position, what) = (training.position(), trainable.trained());
    let (steps, tokens) =
        (format::number_of(position.step, "step"), format::count(position.tokens));
    let kept = match position.has_improved() {
        Some(false) => "; no evaluation was better than that of the start, whose weights these are",
        _ => "",
    };
    let how = format!("{what}, {steps}, {tokens} tokens, by {MADE_BY}{kept}");
    let compressed = plan.as_ref().map(|plan| (plan, how.as_str()));
    let (model, dtype_of) = (training.result()?, stored_types(&base));
    let template = kept_template(dir);
    write_model(&model, dtype_of, &run.base, template.as_deref(), compressed, output)
}

/// Reports the result of the run. An error if it was to improve the model and did not.
pub fn report<M: LanguageModel>(
    args: &TrainArgs,
    run: &RunFile,
    training: &Training<M>,
    model: &Path,
) -> Result<()> {
    let (position, count) = (training.position(), training.count());
    let adapter = Some(model.with_file_name("adapter"));
    let adapter = adapter.filter(|dir| run.options.trainable == Trainable::Lora && is_adapter(dir));
    if args.json {
        let value =
            |score: Option<Score>| score.map(|score| json!({ score.name(): score.value() }));
        let mut all = json!({
            "model": model.display().to_string(),
            "adapter": adapter.map(|dir| dir.display().to_string()),
            "steps": position.step,
            "tokens": position.tokens,
            "trainable": count.trainable,
            "parameters": count.total,
            "start": value(position.start),
            "best": value(position.best),
            "improved": position.has_improved(),
            "watched": position.watched_best.map(|best| {
                json!({ "start": position.watched_start, "best": best })
            }),
        });
        if run.reads_text() {
            beginning(args, run).add_to(&mut all);
        }
        output::print_json(&all)?;
    } else {
        say!(
            "{}, {} tokens; the model is in {}",
            format::number_of(position.step, "step"),
            format::count(position.tokens),
            model.display()
        );
        if let Some(adapter) = adapter {
            say!("the adapter is in {}", adapter.display());
        }
        for line in scores(&position) {
            say!("{line}");
        }
    }
    match (position.start, position.has_improved()) {
        (Some(start), Some(false)) if run.must_improve => {
            Err(NotImproved { score: format::score(start) }.into())
        }
        _ => Ok(()),
    }
}

/// How the texts of a run begin.
pub fn beginning(args: &TrainArgs, run: &RunFile) -> Beginning {
    let asked = args.resume.is_none().then_some(args.start.bos);
    Beginning::of_run(run.bos, asked)
}

/// What the evaluations of a run say, in lines.
fn scores(position: &Position) -> Vec<String> {
    let mut lines = Vec::new();
    match (position.start, position.best) {
        (Some(start), Some(best)) if best.is_better_than(start) => lines.push(format!(
            "{}, after {} at the start",
            format::score(best),
            format::score(start)
        )),
        (Some(start), Some(_)) => lines.push(format!(
            "no evaluation was better than that of the start, {}: the model is the one that the \
             run began with",
            format::score(start)
        )),
        (None, Some(best)) => lines.push(format::score(best)),
        (_, None) => {}
    }
    if let Some(best) = position.watched_best {
        let start = position.watched_start.map(format::perplexity);
        let start = start.map(|start| format!(", after {start} at the start"));
        lines.push(format!(
            "watched text: perplexity {}{}",
            format::perplexity(best),
            start.unwrap_or_default()
        ));
    }
    lines
}
