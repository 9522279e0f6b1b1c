//! `compress`: a dense model directory to a factored one.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use welore_burn::checkpoint::{Checkpoint, CheckpointError, OutputDir};
use welore_burn::plan::{PlanOptions, RankPlan};
use welore_burn::progress::Interrupted;
use welore_burn::surgery::{FilesError, SurgeryReport, WriteSettings, compress_directory};

use super::resources::{Known, budget, known_of, measure_within};
use super::{
    check_output, describe, in_file, open_model, plan_for, plan_options, read_artifact, selection,
    warn_about,
};
use crate::args::{CompressArgs, Policy, ResourceArgs, SelectionArgs, TargetArgs};
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
    check_output(&args.output, &args.model)?;
    let output = OutputDir::resumable(&args.output, args.force)?;
    let (plan, measured) =
        plan_within(goal, &checkpoint, args.target.policy, &args.selection, &args.resources)?;
    let mut bar = Bar::default();
    let settings =
        WriteSettings { budget: budget(&args.resources), shard_bytes: args.shards.shard_size };
    let written = compress_directory(&checkpoint, &plan, &output, &settings, &mut bar);
    bar.finish();
    if let Err(FilesError::Checkpoint(CheckpointError::Interrupted(_))) = &written {
        output.suspend();
        eprintln!("what is done is kept; the same command goes on from there");
        return Err(Interrupted.into());
    }
    let report = written?;
    output.commit()?;
    let factored = known_of(&bar, report.factored.len());
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        print_json(&args, &plan, &report, seconds)?;
    } else {
        say!("{}", describe(&plan));
        say!("wrote {} in {seconds:.1} s", args.output.display());
    }
    measured.tell("measured");
    factored.tell("factored");
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
    let resources = ResourceArgs::default();
    Ok(plan_within(goal, checkpoint, policy, selection, &resources)?.0)
}

fn plan_within(
    goal: Goal,
    checkpoint: &Checkpoint,
    policy: Policy,
    selected: &SelectionArgs,
    resources: &ResourceArgs,
) -> Result<(RankPlan, Known)> {
    match goal {
        Goal::Given(plan) => Ok((plan, Known::default())),
        Goal::Target(options) => {
            let (spectra, known) = measure_within(checkpoint, &selection(selected)?, resources)?;
            Ok((plan_for(&spectra, policy, &options)?, known))
        }
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
