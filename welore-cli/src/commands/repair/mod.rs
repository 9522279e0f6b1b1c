//! `repair`: from a quantized model and its source to an adapter that makes up for what was lost.

mod larger;

use anyhow::Result;
use welore_burn::calibrate::Calibration;
use welore_burn::difference::Side;

use self::larger::Larger;
use crate::args::{RepairArgs, Typed, rule};
use crate::output;
use crate::shared::differing::{Job, as_json, tell, warn_of_others};

/// Runs the command.
pub fn run(args: RepairArgs, typed: &Typed) -> Result<()> {
    let making = &args.making;
    let job = Job { args: making, from: &args.quantized, to: &args.source, side: Side::To };
    let weighs = making.calibration.is_some() && !making.dry_run;
    typed.check([rule("no-types", weighs, "only with --calibration, and without --dry-run")])?;
    let goal = job.check(typed)?;
    let (opened, output) = job.open()?;
    let has_gradients = opened.calibration.as_ref().is_some_and(Calibration::has_gradients);
    typed.check([rule(
        "no-types",
        has_gradients,
        "only with a --calibration that has gradients",
    )])?;
    let made = job.make(&opened, goal, output)?;
    let larger = match args.no_types {
        true => None,
        false => Larger::find(&job, &opened, &made)?,
    };
    if making.json {
        let mut told = as_json(&job, &made);
        if let Some(larger) = &larger {
            told["larger_types"] = larger.as_json();
        }
        output::print_json(&told)?;
    } else {
        tell(&job, &made)?;
        larger.iter().try_for_each(Larger::tell)?;
    }
    warn_of_others(&made);
    larger.iter().for_each(Larger::warn);
    Ok(())
}
