//! A run that goes on for more steps than it began with.

use anyhow::Result;
use welore_burn::named::Named;
use welore_burn::train::{Position, RunFile, Schedule};

use crate::args::TrainArgs;
use crate::failure::WrongInput;
use crate::format;

/// A run with more steps.
pub struct Extension {
    /// The extended run.
    pub run: RunFile,
    /// What changes, for the user.
    pub told: String,
}

/// The number of steps that a run is to have, if that is more than it has.
pub fn asked(run: &RunFile, args: &TrainArgs) -> Result<Option<usize>> {
    let has = run.options.steps;
    match args.start.options.steps {
        Some(steps) if steps < has => {
            let message = format!("--steps {steps}: the run has {has}, and cannot be shortened");
            refuse(message, format!("give more than {has} to extend it, or leave this out"))
        }
        Some(steps) if steps > has => Ok(Some(steps)),
        _ => Ok(None),
    }
}

impl Extension {
    /// Extends a run that has come to the position `last`. Nothing is written.
    pub fn of(run: &RunFile, last: Option<Position>, steps: usize) -> Result<Self> {
        let extended = run.extended(steps)?;
        if last.is_some_and(|last| last.is_last(&extended.options)) {
            let message = format!(
                "--steps {steps}: the run ended because its score no longer improved (--patience)"
            );
            return refuse(message, "start a new run from RUN/model".into());
        }
        check_evaluated(run, steps)?;
        let done = last.map_or(0, |last| last.step);
        let told = told(run, &extended, done);
        Ok(Self { run: extended, told })
    }
}

/// Refuses steps whose result would be thrown away: where there were evaluations, the best of them
/// decides which model the run gives.
fn check_evaluated(run: &RunFile, steps: usize) -> Result<()> {
    let (has, every) = (run.options.steps, run.options.eval_every);
    let evaluations = |steps: usize| steps.checked_div(every).unwrap_or(0);
    let made = evaluations(has);
    if made == 0 {
        return Ok(());
    }
    if evaluations(steps) > made {
        return check_end_evaluated(run, steps);
    }
    let message = format!(
        "--steps {steps}: no evaluation comes after step {has}, since there is one every {every} \
         steps, and only an evaluated model can be the best"
    );
    refuse(message, format!("give --steps {} or more", (made + 1) * every))
}

/// Refuses to end a run between two evaluations if it began with one in its last step, as it does by
/// default: its last steps could never become the result.
fn check_end_evaluated(run: &RunFile, steps: usize) -> Result<()> {
    let every = run.options.eval_every;
    let began_with = run.extended_from.first().copied().unwrap_or(run.options.steps);
    if every != began_with || steps.is_multiple_of(every) {
        return Ok(());
    }
    let last = steps / every * every;
    let message = format!(
        "--steps {steps}: the last evaluation would be that of step {last}, since there is one \
         every {every} steps, and only an evaluated model can be the best"
    );
    refuse(message, format!("give --steps {last} or --steps {}", last.saturating_add(every)))
}

/// What the extension does to the learning rate of the step after the first `done`. What that was
/// before is only known of a run that was never extended: others may have taken their last step in a
/// schedule of fewer steps.
fn told(run: &RunFile, extended: &RunFile, done: usize) -> String {
    let (before, after) = (Schedule::from(&run.options), Schedule::from(&extended.options));
    let (has, steps) = (run.options.steps, extended.options.steps);
    let kind = run.options.schedule.name();
    let is = || format!("is {:.2e} in step {}", after.rate(done), done + 1);
    let lr = match done {
        0 => String::new(),
        _ if run.is_extended() => format!(": the learning rate {}", is()),
        _ => format!(
            ": the learning rate was {:.2e} in step {done} and {}",
            before.rate(done - 1),
            is()
        ),
    };
    let steps = format::number_of(steps, "step");
    format!("extending the run from {has} to {steps}, with the {kind} schedule of {steps}{lr}")
}

fn refuse<T>(message: String, hint: String) -> Result<T> {
    Err(WrongInput::with_hint(message, hint).into())
}
