//! `extract`: from a tuned model and its base to an adapter.

use anyhow::Result;
use welore_burn::difference::Side;

use crate::args::{ExtractArgs, Typed};
use crate::output;
use crate::shared::differing::{Job, as_json, tell, warn_of_others};

/// Runs the command.
pub fn run(args: ExtractArgs, typed: &Typed) -> Result<()> {
    let making = &args.making;
    let job = Job { args: making, from: &args.base, to: &args.tuned, side: Side::From };
    let goal = job.check(typed)?;
    let (opened, output) = job.open()?;
    let made = job.make(&opened, goal, output)?;
    match making.json {
        true => output::print_json(&as_json(&job, &made))?,
        false => tell(&job, &made)?,
    }
    warn_of_others(&made);
    Ok(())
}
