//! The model that results from a run.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::model::LanguageModel;
use welore_burn::plan::read_plan;
use welore_burn::train::{RunFile, Training};

use crate::args::TrainArgs;
use crate::failure::WrongInput;
use crate::shared::card::MADE_BY;
use crate::shared::writing::{stored_types, write_new_model};
use crate::{format, output};

/// Refuses anything else in the place of a run's model. Nothing may be there before the run
/// `is_done`, and only a complete model after that.
pub fn check_model(model: &Path, is_done: bool) -> Result<()> {
    let Ok(found) = model.symlink_metadata() else { return Ok(()) };
    if is_done && found.is_dir() && Checkpoint::open(model).is_ok() {
        return Ok(());
    }
    let message = format!("{} is not what this run wrote", model.display());
    let hint = "move it away; the run writes its model there at the end";
    Err(WrongInput::with_hint(message, hint).into())
}

/// Writes the resulting model, each tensor in the type that it had: the model with the best score
/// if there were evaluations, else the last one.
pub fn write_model<M: LanguageModel>(
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
