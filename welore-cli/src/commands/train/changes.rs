//! A resumed run cannot be changed, except that it can be extended: options that differ from its
//! own are refused.

use anyhow::Result;
use serde_json::Value;
use welore_burn::named::Named;
use welore_burn::train::{Position, RunFile};

use super::request::check_options;
use crate::args::{RANK_OPTIONS, TrainArgs, Typed, flag_of, rule};
use crate::failure::WrongInput;

/// Refuses options that differ from those of the run, other than the number of steps.
pub fn refuse_changes(run: &RunFile, args: &TrainArgs, typed: &Typed) -> Result<()> {
    let TrainArgs { start, compute, .. } = args;
    check_options(&start.options, run.options.trainable)?;
    let mut given = start.options.over(&run.options);
    given.steps = run.options.steps;
    let (ours, theirs) = (serde_json::to_value(&run.options)?, serde_json::to_value(&given)?);
    let mut changes = Vec::new();
    differences("", &ours, &theirs, &mut changes);
    if start.eval_windows.is_some_and(|windows| Some(windows) != run.eval_windows) {
        changes.push("--eval-windows".into());
    }
    let reads_text = run.eval_text.is_some() || run.watch_text.is_some();
    if start.eval_seq_len.is_some_and(|given| !reads_text || given != run.eval_window()) {
        changes.push("--eval-seq-len".into());
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

/// Refuses to ask a run that cannot tell whether its model has improved, at the position `last`.
pub fn check_must_improve(run: &RunFile, last: Option<Position>, typed: &Typed) -> Result<()> {
    let why = "only with evaluations, which this run lacks";
    typed.check([rule("must-improve", run.options.evaluates(), why)])?;
    let knows = last.is_none_or(|last| last.step == 0 || last.start.is_some());
    let why = "an earlier version began this run and did not evaluate its start";
    typed.check([rule("must-improve", knows, why)])
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
