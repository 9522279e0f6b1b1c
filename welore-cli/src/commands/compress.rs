//! `compress`: a dense model directory to a factored one.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use welore_burn::checkpoint::{Checkpoint, DEFAULT_SHARD_BYTES};
use welore_burn::plan::{PlanOptions, RankPlan};
use welore_burn::surgery::{SurgeryReport, compress_directory};

use super::{
    describe, in_file, measure, open_model, output_dir, plan_for, plan_options, read_artifact,
    warn_about,
};
use crate::args::{CompressArgs, Policy, SelectionArgs, TargetArgs};
use crate::format;
use crate::terminal::Bar;

/// Where a plan comes from.
#[derive(Debug)]
pub(super) enum Goal {
    /// A plan that was made before.
    Given(RankPlan),
    /// A target to plan for.
    Target(PlanOptions),
}

/// Runs the command.
pub fn run(args: CompressArgs) -> Result<()> {
    let started = Instant::now();
    // All that can be wrong is found before the work that would be lost.
    let Some(goal) = goal(args.plan.as_deref(), args.err, &args.target)? else {
        unreachable!("clap asks for one of --plan and --err")
    };
    let checkpoint = open_model(&args.model)?;
    let output = output_dir(&args.output, args.force, &args.model)?;
    let plan = plan_of(goal, &checkpoint, args.target.policy, &args.selection)?;
    let mut bar = Bar::default();
    let report = compress_directory(&checkpoint, &plan, &output, DEFAULT_SHARD_BYTES, &mut bar)?;
    output.commit()?;
    bar.finish();
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        return print_json(&args, &plan, &report, seconds);
    }
    say!("{}", describe(&plan));
    say!("wrote {} in {seconds:.1} s", args.output.display());
    Ok(())
}

/// What the command line asks for: a plan, a target, or nothing. Checked before any work.
pub(super) fn goal(
    plan: Option<&Path>,
    err: Option<f64>,
    target: &TargetArgs,
) -> Result<Option<Goal>> {
    match (plan, err) {
        (Some(path), _) => {
            let plan = in_file(RankPlan::from_json(&read_artifact(path)?), path)?;
            warn_about(&plan);
            Ok(Some(Goal::Given(plan)))
        }
        (None, Some(err)) => Ok(Some(Goal::Target(plan_options(err, target)?))),
        (None, None) => Ok(None),
    }
}

/// The plan of a goal, measured for if it has to be.
pub(super) fn plan_of(
    goal: Goal,
    checkpoint: &Checkpoint,
    policy: Policy,
    selection: &SelectionArgs,
) -> Result<RankPlan> {
    match goal {
        Goal::Given(plan) => Ok(plan),
        Goal::Target(options) => plan_for(&measure(checkpoint, selection)?, policy, &options),
    }
}

fn print_json(
    args: &CompressArgs,
    plan: &RankPlan,
    report: &SurgeryReport,
    seconds: f64,
) -> Result<()> {
    let factored: Vec<_> = report
        .factored
        .iter()
        .map(|m| json!({ "name": m.name, "rank": m.rank, "relative_error": m.relative_error }))
        .collect();
    format::print_json(&json!({
        "output": args.output.display().to_string(),
        "policy": plan.policy,
        "target_err": plan.target_err,
        "min_ratio": plan.min_ratio,
        "totals": plan.totals,
        "factored": factored,
        "seconds": seconds,
    }))
}
