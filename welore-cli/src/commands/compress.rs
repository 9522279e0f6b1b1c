//! `compress`: a dense model directory to a factored one.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use welore_burn::checkpoint::DEFAULT_SHARD_BYTES;
use welore_burn::plan::{PlanOptions, RankPlan};
use welore_burn::surgery::{SurgeryReport, compress_directory};

use super::{
    describe, in_file, measure, open_model, output_dir, plan_for, plan_options, read_artifact,
    warn_about,
};
use crate::args::CompressArgs;
use crate::format;
use crate::terminal::Bar;

/// Where the plan comes from.
enum Goal {
    /// A plan that was made before.
    Given(RankPlan),
    /// A target to plan for.
    Target(PlanOptions),
}

/// Runs the command.
pub fn run(args: CompressArgs) -> Result<()> {
    let started = Instant::now();
    // All that can be wrong is found before the work that would be lost.
    let goal = goal(&args)?;
    let checkpoint = open_model(&args.model)?;
    let output = output_dir(&args.output, args.force, &args.model)?;
    let plan = match goal {
        Goal::Given(plan) => plan,
        Goal::Target(options) => {
            let spectra = measure(&checkpoint, &args.selection)?;
            plan_for(&spectra, args.target.policy, &options)?
        }
    };
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

fn goal(args: &CompressArgs) -> Result<Goal> {
    match (&args.plan, args.err) {
        (Some(path), _) => {
            let plan = in_file(RankPlan::from_json(&read_artifact(path)?), path)?;
            warn_about(&plan);
            Ok(Goal::Given(plan))
        }
        (None, Some(err)) => Ok(Goal::Target(plan_options(err, &args.target)?)),
        (None, None) => unreachable!("clap asks for one of --plan and --err"),
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
