//! `plan`: which matrices are factored, at which rank.

use anyhow::Result;
use welore_burn::plan::RankPlan;
use welore_burn::spectrum::{Spectra, SpectrumUnit};

use super::recipe::{Recipe, open_calibration};
use super::report::{check_page, write_page};
use super::resources::{Known, measure_within};
use super::{
    check_artifact, describe, in_file, open_model, plan_for, read_artifact, selection,
    write_artifact,
};
use crate::args::{PlanArgs, Policy};
use crate::failure::WrongInput;
use crate::{format, models};

/// Runs the command.
pub fn run(args: PlanArgs) -> Result<()> {
    check_artifact(args.output.as_deref())?;
    check_page(&args.page, args.output.as_deref())?;
    let Some(goal) = args.goal.target() else { unreachable!("clap asks for a target") };
    let recipe = Recipe::choose(&args.method, &args.target, args.method.calibration.is_some())?;
    let options = recipe.plan_options(goal, &args.target)?;
    let (spectra, known) = read_spectra(&args, &recipe)?;
    // A spectra file says itself what its values measure.
    let policy = match (args.target.policy, spectra.unit) {
        (None, SpectrumUnit::Loss) => Policy::Loss,
        (None, SpectrumUnit::Inputs) => Policy::Energy,
        _ => recipe.policy,
    };
    let plan = plan_for(&spectra, policy, &options)?;
    if let Some(path) = &args.output {
        write_artifact(path, &plan.to_json())?;
    }
    write_page(&args.page, &format!("Plan for {}", args.source.display()), |page| {
        page.spectra(&spectra);
        page.plan(&plan);
        Ok(())
    })?;
    if args.json {
        say!("{}", plan.to_json());
    } else {
        print_table(&plan)?;
    }
    known.tell("measured");
    Ok(())
}

fn read_spectra(args: &PlanArgs, recipe: &Recipe) -> Result<(Spectra, Known)> {
    if args.source.is_file() && !models::is_model_file(&args.source) {
        if args.method.calibration.is_some() {
            let message = "--calibration: spectra are measured already";
            let hint = Some("give the model directory instead of the spectra file".into());
            return Err(WrongInput { message: message.into(), hint }.into());
        }
        let spectra = in_file(Spectra::from_json(&read_artifact(&args.source)?), &args.source)?;
        // A file that was measured with other patterns is taken as it is.
        if args.selection.include.is_empty() && args.selection.exclude.is_empty() {
            return Ok((spectra, Known::default()));
        }
        return Ok((spectra.select(&selection(&args.selection)?)?, Known::default()));
    }
    let selected = selection(&args.selection)?;
    let model = models::directory_of(&args.source)?;
    if !model.exists() {
        let message = format!("{}: no such model directory or spectra file", args.source.display());
        return Err(WrongInput { message, hint: Some(models::WHAT_MODEL_IS.into()) }.into());
    }
    let checkpoint = open_model(&model)?;
    let calibration = open_calibration(args.method.calibration.as_deref())?;
    let norms = recipe.norms(calibration.as_ref())?;
    measure_within(&checkpoint, &selected, norms, &args.resources)
}

/// Prints every matrix of a plan, and its totals.
pub(super) fn print_table(plan: &RankPlan) -> Result<()> {
    let rows = plan
        .matrices
        .iter()
        .map(|m| {
            let [out, inputs] = m.shape;
            let class = match (m.low_rank, m.grows) {
                (true, true) => "LRC, grows",
                (true, false) => "LRC",
                (false, _) => "dense",
            };
            vec![
                m.name.clone(),
                format!("{out}x{inputs}"),
                m.full_rank.to_string(),
                m.rank.to_string(),
                format::percent(m.reduction),
                class.into(),
                format::count(m.parameters_before),
                format::count(m.parameters_after),
            ]
        })
        .collect();
    let header = ["matrix", "shape", "full", "rank", "reduction", "class", "before", "after"];
    say!("{}\n", format::table(&header, rows));
    if let Some(threshold) = plan.threshold {
        say!("{} threshold {threshold:.6}", plan.policy);
    }
    say!("{}", describe(plan));
    Ok(())
}
