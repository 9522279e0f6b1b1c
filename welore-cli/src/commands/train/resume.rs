//! `train --resume`: a run that goes on, or with `--dry-run` what is left of it.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use welore_burn::model::read_config;
use welore_burn::train::{Checkpoints, Position, RunFile, model_digest};

use super::data::{self, Inputs};
use super::extend::{self, Extension};
use super::place::Place;
use super::trial::try_rest;
use super::{Run, changes, finish, request};
use crate::args::{TrainArgs, Typed};
use crate::devices::{Choice, Compute};
use crate::failure::WrongInput;
use crate::shared::gradients::forget_summary;
use crate::{format, output};

/// A run that may go on, after all checks that take little time. Nothing is written yet.
struct Resumed {
    /// As it goes on, with more steps if it is extended.
    run: RunFile,
    /// What to say about its extension, if it is extended now.
    extension: Option<String>,
    /// Whether its file has to be replaced.
    is_changed: bool,
    /// Where its last checkpoint is.
    last: Option<Position>,
    inputs: Inputs,
    /// Whether the directory still holds the rows of the run.
    has_rows: bool,
    compute: Compute,
}

/// Takes the steps that are left, and writes the model.
pub fn resume(args: &TrainArgs, typed: &Typed, dir: &Path) -> Result<()> {
    // No lock is made in a directory without a run.
    RunFile::read(dir)?;
    let _place = Place::of_run(dir)?;
    // Until it was locked, another process may have extended it.
    let resumed = Resumed::check(args, typed, dir)?;
    let Resumed { run, extension, is_changed, inputs, has_rows, compute, .. } = resumed;
    if !has_rows {
        data::keep(&inputs.rows, dir)?;
    }
    let run = Run { args, dir, run, compute, extension, has_begun: true };
    let (training, inputs) = run.open(inputs)?;
    if run.extension.is_some() {
        // A run that is killed from here on is an extended one.
        finish::keep_track(dir)?;
        forget_summary(dir)?;
    }
    if is_changed {
        run.run.write(dir)?;
    }
    run.train(training, inputs)
}

/// Shows what is left, and what that is expected to take. Writes nothing but temporary files.
pub fn show(args: &TrainArgs, typed: &Typed, dir: &Path) -> Result<()> {
    RunFile::read(dir)?;
    let _place = Place::if_locked_before(dir)?;
    let Resumed { run, extension, last, inputs, compute, .. } = Resumed::check(args, typed, dir)?;
    let (done, steps) = (last.map_or(0, |last| last.step), run.options.steps);
    let is_done = last.is_some_and(|last| last.is_last(&run.options));
    let left = if is_done { 0 } else { steps - done };
    if !args.json {
        let left = format::number_of(left, "step");
        say!("{}: {left} left of {steps}, after step {done}", dir.display());
        if let Some(told) = &extension {
            say!("{told}");
        }
    }
    let options = run.options.clone();
    let expected = match is_done {
        true => None,
        false => Some(try_rest(args, run, done, inputs, compute)?),
    };
    if !args.json {
        match expected {
            Some(expected) => say!("{}", expected.line()),
            None => say!("the run is done"),
        }
        return Ok(());
    }
    output::print_json(&json!({
        "dry_run": true,
        "run": dir.display().to_string(),
        "settings": options,
        "step": done,
        "steps_left": left,
        "extension": extension,
        "expected_seconds": expected.as_ref().map(|expected| expected.seconds),
        "expected_peak_bytes": expected.as_ref().and_then(|expected| expected.peak_bytes),
        "expected_peak_of": expected.as_ref().map(|expected| expected.peak_of()),
        "tried": expected.as_ref().map(|expected| &expected.tried),
    }))
}

impl Resumed {
    fn check(args: &TrainArgs, typed: &Typed, dir: &Path) -> Result<Self> {
        let mut run = RunFile::read(dir)?;
        let asked = extend::asked(&run, args)?;
        changes::refuse_changes(&run, args, typed)?;
        let compute = Compute::choose(Choice { dtype: run.dtype, ..args.compute.choice() })?;
        if model_digest(&run.base)? != run.base_digest {
            let base = run.base.display();
            let message = format!("{base} is not the model that the run began with");
            return Err(WrongInput::new(message).into());
        }
        let config = read_config(&run.base)?;
        request::check_context(args, run.options.seq_len, &config)?;
        let last = Checkpoints::of_run(dir, &run.identity()).last(&run.options)?;
        let last = last.map(|(position, _)| position);
        changes::check_must_improve(&run, last, typed)?;
        let is_done = last.is_some_and(|at| at.is_last(&run.options));
        finish::check_model(dir, &run, is_done)?;
        let extension = asked.map(|steps| Extension::of(&run, last, steps)).transpose()?;
        let to_write = extension.as_ref().map_or(&run, |extension| &extension.run);
        finish::check_replaceable(dir, to_write, is_done)?;
        let (inputs, has_rows) = data::again(&run, &config, dir)?;
        let mut told = None;
        if let Some(extension) = extension {
            (run, told) = (extension.run, Some(extension.told));
        }
        let is_asked_to = args.must_improve && run.options.evaluates() && !run.must_improve;
        run.must_improve |= is_asked_to;
        let is_changed = told.is_some() || is_asked_to;
        Ok(Self { run, extension: told, is_changed, last, inputs, has_rows, compute })
    }
}
