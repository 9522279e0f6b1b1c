//! A resumed run cannot be changed: options that differ from its own are refused.

use anyhow::Result;
use serde_json::Value;
use welore_burn::named::Named;
use welore_burn::train::RunFile;

use super::request::check_options;
use crate::args::{RANK_OPTIONS, TrainArgs, Typed, flag_of};
use crate::failure::WrongInput;

/// Refuses options that differ from those of the run.
pub fn refuse_changes(run: &RunFile, args: &TrainArgs, typed: &Typed) -> Result<()> {
    let TrainArgs { start, compute, .. } = args;
    check_options(&start.options, run.options.trainable)?;
    let given = start.options.over(&run.options);
    let (ours, theirs) = (serde_json::to_value(&run.options)?, serde_json::to_value(&given)?);
    let mut changes = Vec::new();
    differences("", &ours, &theirs, &mut changes);
    if start.eval_windows.is_some_and(|windows| Some(windows) != run.eval_windows) {
        changes.push("--eval-windows".into());
    }
    if start.track_gradients.is_some() && start.track_gradients != run.track_gradients {
        changes.push("--track-gradients".into());
    }
    if compute.dtype.is_some_and(|dtype| dtype != run.dtype) {
        changes.push(format!("--dtype (the run has {})", run.dtype.name()));
    }
    let ranks = RANK_OPTIONS.iter().filter(|option| typed.has(option));
    changes.extend(ranks.map(|option| format!("--{option}")));
    if changes.is_empty() {
        return Ok(());
    }
    let message =
        format!("{}: not what the run began with, and a run cannot be changed", changes.join(", "));
    let hint = "leave this out, or start a new run from RUN/model";
    Err(WrongInput::with_hint(message, hint).into())
}

/// The flags of options that differ, with the run's own value.
fn differences(name: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in ours {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                differences(&name, value, &theirs[key], found);
            }
        }
        _ if ours == theirs => {}
        // A switch has no value.
        (Value::Bool(_), _) => found.push(flag_of(name)),
        _ => found.push(format!("{} (the run has {ours})", flag_of(name))),
    }
}
