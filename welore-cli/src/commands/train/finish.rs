//! The model that results from a run.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::files::{FileError, read_existing, replace_file};
use welore_burn::model::LanguageModel;
use welore_burn::plan::read_plan;
use welore_burn::train::{RunFile, Training, model_digest};

use crate::args::TrainArgs;
use crate::failure::WrongInput;
use crate::shared::card::MADE_BY;
use crate::shared::writing::{stored_types, write_new_model};
use crate::{format, output};

/// The file of a run directory with the digest of the model that the run wrote.
const DIGEST: &str = "model.digest";

/// More bytes than a digest in hex has.
const LARGEST_DIGEST: u64 = 1 << 10;

/// The directory of a run's model.
pub fn model_of(run: &Path) -> PathBuf {
    run.join("model")
}

/// Refuses anything else in the place of a run's model. Nothing may be there before the run
/// `is_done`, and after that only a complete model: the one that the run wrote, if it is known.
pub fn check_model(run: &Path, is_done: bool) -> Result<()> {
    let model = &model_of(run);
    let Ok(found) = model.symlink_metadata() else { return Ok(()) };
    if is_done && found.is_dir() && Checkpoint::open(model).is_ok() && is_ours(run, model)? {
        return Ok(());
    }
    let message = format!("{} is not what this run wrote", model.display());
    let hint = "move it away; the run writes its model there at the end";
    Err(WrongInput::with_hint(message, hint).into())
}

/// Whether a model is the one that the run wrote, as far as is known: runs of earlier versions noted
/// no digest, nor did one that was killed between the model and its digest.
fn is_ours(run: &Path, model: &Path) -> Result<bool> {
    match read_existing(run.join(DIGEST), LARGEST_DIGEST)? {
        Some(noted) => Ok(noted.trim_ascii() == model_digest(model)?.as_bytes()),
        None => Ok(true),
    }
}

/// Writes the resulting model into the directory of its run, and notes its digest there.
pub fn write_model<M: LanguageModel>(
    training: &Training<M>,
    run: &RunFile,
    dir: &Path,
) -> Result<()> {
    let (model, digest) = (model_of(dir), dir.join(DIGEST));
    // An earlier one is that of a model which was moved away.
    if let Err(error) = fs::remove_file(&digest)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(FileError::io(&digest)(error).into());
    }
    write_result(training, run, &model)?;
    Ok(replace_file(&digest, format!("{}\n", model_digest(&model)?).as_bytes())?)
}

/// Writes the resulting model, each tensor in the type that it had: the model with the best score
/// if there were evaluations, else the last one.
fn write_result<M: LanguageModel>(
    training: &Training<M>,
    run: &RunFile,
    target: &Path,
) -> Result<()> {
    let trainable = run.options.trainable;
    let base = Checkpoint::open(&run.base)?;
    let plan = read_plan(&run.base)?.filter(|_| !trainable.merges());
    let (position, what) = (training.position(), trainable.trained());
    let (steps, tokens) =
        (format::number_of(position.step, "step"), format::count(position.tokens));
    let how = format!("{what}, {steps}, {tokens} tokens, by {MADE_BY}");
    let compressed = plan.as_ref().map(|plan| (plan, how.as_str()));
    write_new_model(&training.result()?, stored_types(&base), &run.base, compressed, target)
}

/// Reports the result of the run.
pub fn report<M: LanguageModel>(
    args: &TrainArgs,
    training: &Training<M>,
    model: &Path,
) -> Result<()> {
    let (position, count) = (training.position(), training.count());
    let best = position.best;
    if args.json {
        return output::print_json(&json!({
            "model": model.display().to_string(),
            "steps": position.step,
            "tokens": position.tokens,
            "trainable": count.trainable,
            "parameters": count.total,
            "best": best.map(|score| json!({ score.name(): score.value() })),
        }));
    }
    say!(
        "{}, {} tokens; the model is in {}",
        format::number_of(position.step, "step"),
        format::count(position.tokens),
        model.display()
    );
    Ok(())
}
