//! `compress`: a dense model directory to a factored one.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Module;
use burn::tensor::FloatDType;
use serde_json::json;
use welore_burn::calibrate::Calibration;
use welore_burn::checkpoint::{Checkpoint, CheckpointError, OutputDir};
use welore_burn::fit::{FitOptions, fit};
use welore_burn::llama::{Llama, open_llama};
use welore_burn::plan::{PlanOptions, RankPlan, Target};
use welore_burn::progress::Interrupted;
use welore_burn::spectrum::{Norms, Spectra};
use welore_burn::surgery::{
    FilesError, SurgeryReport, WriteSettings, check_calibration, check_plan, compress_directory,
};

use super::calibrate::calibrate_on;
use super::card::write_card;
use super::plan::print_table;
use super::recipe::{Recipe, check_fit, open_calibration};
use super::report::{check_page, write_page};
use super::resources::{Known, budget, known_of, measure_within};
use super::writing::{first_dtype, write_llama};
use super::{
    check_output, describe, in_file, open_model, plan_for, read_artifact, selection, warn_about,
};
use crate::args::{
    CompressArgs, MethodArg, MethodArgs, Policy, ResourceArgs, SelectionArgs, TargetArgs,
};
use crate::devices::Compute;
use crate::terminal::Bar;
use crate::{format, memory, models};

/// Where a plan comes from.
#[derive(Debug)]
pub(super) enum Goal {
    /// A plan that was made before.
    Given(Box<RankPlan>),
    /// A target to plan for, and how.
    Target(PlanOptions, Policy),
}

/// Runs the command.
pub fn run(args: CompressArgs) -> Result<()> {
    let started = Instant::now();
    // All that can be wrong is found before the work that would be lost.
    check_fit(&args.fit)?;
    check_page(&args.page, Some(&args.output))?;
    let (recipe, goal) = recipe_and_goal(&args)?;
    let model = models::directory_of(&args.model)?;
    let checkpoint = open_model(&model)?;
    check_output(&args.output, &model)?;
    // A dry run makes nothing, also not beside the output.
    let output = match args.dry_run {
        true => OutputDir::check_free(&args.output, args.force).map(|()| None)?,
        false => Some(OutputDir::resumable(&args.output, args.force)?),
    };
    // Weights alone are decomposed on the CPU, and no device is opened for that.
    let computes = recipe.method != MethodArg::Svd || args.calibrate.is_some();
    let compute = match computes {
        true => {
            memory::keep_pages();
            Some(Compute::choose(&args.compute)?)
        }
        false => None,
    };
    let fitting = compute.as_ref().and_then(|compute| recipe.fit(&args.fit, compute));
    let scratch = tempfile::tempdir().context("no temporary directory")?;
    let calibration = match (&args.calibrate, &compute) {
        (Some(text), Some(compute)) => {
            let file = scratch.path().join("calibration");
            calibrate_on(&model, text, &args.amount, compute, &file)?;
            Some(Calibration::open(file)?)
        }
        _ => open_calibration(args.method.calibration.as_deref())?,
    };
    let norms = recipe.norms(calibration.as_ref())?;
    let Planned { plan, spectra, measured } =
        plan_within(goal, &checkpoint, norms, &args.selection, &args.resources)?;
    // One that was just made is of these weights, and no plan can have been made with it.
    if let (Some(calibration), None) = (norms.calibration(), &args.calibrate) {
        check_calibration(&plan, calibration)?;
        if plan.calibration.as_deref() != calibration.digest() {
            tell!("warning: the plan was made without this calibration, or with another one");
        }
    }
    let Some(output) = output else {
        if args.plan.is_some() {
            check_plan(&checkpoint, &plan)?;
        }
        show_plan(&args, &plan)?;
        measured.tell("measured");
        return Ok(());
    };

    let mut bar = Bar::default();
    let written = match (&fitting, &calibration, &compute) {
        (Some(options), Some(calibration), Some(compute)) => {
            let shard_bytes = args.shards.shard_size;
            let work = Fitting { model: &model, shard_bytes, checkpoint: &checkpoint, compute };
            work.write(&plan, calibration, options, &output, &mut bar)
        }
        _ => {
            let (budget, shard_bytes) = (budget(&args.resources), args.shards.shard_size);
            let settings = WriteSettings { norms, budget, shard_bytes };
            compress_directory(&checkpoint, &plan, &output, &settings, &mut bar).map_err(Into::into)
        }
    };
    bar.finish();
    if let Err(error) = &written
        && let Some(FilesError::Checkpoint(CheckpointError::Interrupted(_))) = error.downcast_ref()
    {
        output.suspend();
        note!("what is done is kept; the same command goes on from there");
        return Err(Interrupted.into());
    }
    let report = written?;
    let base = args.model.to_string_lossy();
    write_card(output.path(), &model, &base, &plan)?;
    output.commit()?;
    let factored = known_of(&bar, report.factored.len());
    let seconds = started.elapsed().as_secs_f64();
    write_page(&args.page, &format!("{}, compressed", args.model.display()), |page| {
        spectra.iter().for_each(|spectra| page.spectra(spectra));
        page.plan(&plan);
        Ok(())
    })?;
    if args.json {
        print_json(&args, &plan, &report, seconds)?;
    } else {
        say!("{}", describe(&plan));
        say!("wrote {} in {}", args.output.display(), format::time(seconds));
    }
    measured.tell("measured");
    factored.tell("factored");
    Ok(())
}

fn recipe_and_goal(args: &CompressArgs) -> Result<(Recipe, Goal)> {
    let calibrated = args.calibrate.is_some() || args.method.calibration.is_some();
    if let Some(path) = &args.plan {
        let plan = in_file(RankPlan::from_json(&read_artifact(path)?), path)?;
        warn_about(&plan);
        let recipe = Recipe::for_plan(&args.method, &args.target, &plan)?;
        return Ok((recipe, Goal::Given(plan.into())));
    }
    let Some(target) = args.goal.target() else { unreachable!("clap asks for --plan or a target") };
    let recipe = Recipe::choose(&args.method, &args.target, calibrated)?;
    Ok((recipe, Goal::Target(recipe.plan_options(target, &args.target)?, recipe.policy)))
}

/// A model that is factored block after block, in memory.
struct Fitting<'a> {
    /// Its directory.
    model: &'a Path,
    shard_bytes: u64,
    checkpoint: &'a Checkpoint,
    compute: &'a Compute,
}

impl Fitting<'_> {
    fn write(
        &self,
        plan: &RankPlan,
        calibration: &Calibration,
        options: &FitOptions,
        output: &OutputDir,
        bar: &mut Bar,
    ) -> Result<SurgeryReport> {
        check_plan(self.checkpoint, plan)?;
        let (model, report) = fitted(self.model, self.compute, plan, calibration, options, bar)?;
        let dtype = first_dtype(self.checkpoint)?;
        write_llama(&model.valid(), dtype, self.model, Some(plan), output, self.shard_bytes)?;
        Ok(report)
    }
}

/// A model directory, loaded and fitted.
pub(super) fn fitted(
    model: &Path,
    compute: &Compute,
    plan: &RankPlan,
    calibration: &Calibration,
    options: &FitOptions,
    bar: &mut Bar,
) -> Result<(Llama, SurgeryReport)> {
    let opened = open_llama(model, &compute.device.clone().autodiff())?;
    let loaded = opened.load(FloatDType::F32, |_| true, bar)?;
    Ok(fit(loaded.model, plan, calibration, options, bar)?)
}

/// What `train` is asked to compress first: a plan, a target, or nothing. Checked before any
/// work.
pub(super) fn goal(
    plan: Option<&Path>,
    goal: Option<Target>,
    target: &TargetArgs,
) -> Result<Option<Goal>> {
    match (plan, goal) {
        (Some(path), _) => {
            let plan = in_file(RankPlan::from_json(&read_artifact(path)?), path)?;
            Recipe::for_plan(&MethodArgs::default(), target, &plan)?;
            warn_about(&plan);
            Ok(Some(Goal::Given(plan.into())))
        }
        (None, Some(goal)) => {
            let recipe = Recipe::choose(&MethodArgs::default(), target, false)?;
            Ok(Some(Goal::Target(recipe.plan_options(goal, target)?, recipe.policy)))
        }
        (None, None) => Ok(None),
    }
}

/// The plan of a goal, measured for if it has to be.
pub(super) fn plan_of(
    goal: Goal,
    checkpoint: &Checkpoint,
    selection: &SelectionArgs,
) -> Result<RankPlan> {
    let resources = ResourceArgs::default();
    Ok(plan_within(goal, checkpoint, Norms::plain(), selection, &resources)?.plan)
}

/// A plan, and what was measured for it.
struct Planned {
    plan: RankPlan,
    /// `None` if the plan was given.
    spectra: Option<Spectra>,
    measured: Known,
}

fn plan_within(
    goal: Goal,
    checkpoint: &Checkpoint,
    norms: Norms<'_>,
    selected: &SelectionArgs,
    resources: &ResourceArgs,
) -> Result<Planned> {
    match goal {
        Goal::Given(plan) => Ok(Planned { plan: *plan, spectra: None, measured: Known::default() }),
        Goal::Target(options, policy) => {
            let (spectra, measured) =
                measure_within(checkpoint, &selection(selected)?, norms, resources)?;
            let plan = plan_for(&spectra, policy, &options)?;
            Ok(Planned { plan, spectra: Some(spectra), measured })
        }
    }
}

/// Tells what a dry run would write.
fn show_plan(args: &CompressArgs, plan: &RankPlan) -> Result<()> {
    let totals = &plan.totals;
    if args.json {
        return format::print_json(&json!({
            "dry_run": true,
            "output": args.output.display().to_string(),
            "policy": plan.policy,
            "target": plan.target,
            "min_ratio": plan.min_ratio,
            "totals": totals,
        }));
    }
    print_table(plan)?;
    let (parameters, bytes) = (totals.parameters_after, totals.bytes_after);
    let (parameters, bytes) = (format::count(parameters), format::bytes(bytes));
    say!("would write {}: {parameters} parameters, {bytes}", args.output.display());
    Ok(())
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
        "target": plan.target,
        "min_ratio": plan.min_ratio,
        "totals": plan.totals,
        "factored": factored,
        "seconds": seconds,
    }))
}
