//! `plan`: which matrices to factor, and at which ranks.

use anyhow::Result;
use welore_burn::model::open_model;
use welore_burn::plan::RankPolicy;
use welore_burn::spectrum::{Method, Spectra, SpectrumUnit};

use crate::args::{PlanArgs, Way};
use crate::devices::host;
use crate::failure::WrongInput;
use crate::shared::artifacts::{check_artifact, in_file, read_artifact, write_artifact};
use crate::shared::measuring::{Known, measure_within};
use crate::shared::page::{check_page, write_page};
use crate::shared::planning::{plan_for, print_plan};
use crate::shared::recipe::{Recipe, open_calibration};
use crate::shared::selecting::{check_patterns, of_file, of_model};
use crate::{models, output};

/// Runs the command.
pub fn run(args: PlanArgs) -> Result<()> {
    check_artifact(args.output.as_deref())?;
    check_page(&args.page, args.output.as_deref())?;
    let Some(goal) = args.goal.target() else { unreachable!("clap asks for a target") };
    let recipe = Recipe::choose(&args.method, &args.target, args.method.calibration.is_some())?;
    let options = recipe.plan_options(goal, &args.target)?;
    let (spectra, known) = read_spectra(&args, &recipe)?;
    let plan = plan_for(&spectra, policy(&args, &recipe, &spectra), &options)?;
    if let Some(path) = &args.output {
        write_artifact(path, &plan.to_json())?;
    }
    write_page(&args.page, &format!("Plan for {}", args.source.display()), |page| {
        page.spectra(&spectra);
        page.plan(&plan);
        Ok(())
    })?;
    if args.json {
        output::print_block(&plan.to_json())?;
    } else {
        print_plan(&plan)?;
    }
    known.tell("measured");
    Ok(())
}

/// The policy. The default for a spectra file depends on what its values measure.
fn policy(args: &PlanArgs, recipe: &Recipe, spectra: &Spectra) -> &'static dyn RankPolicy {
    match (args.target.policy, spectra.unit) {
        (Some(policy), _) => policy,
        (None, SpectrumUnit::Weights) => recipe.policy,
        (None, unit) => Way::of(Method::of_unit(unit)).policy,
    }
}

fn read_spectra(args: &PlanArgs, recipe: &Recipe) -> Result<(Spectra, Known)> {
    check_patterns(&args.selection)?;
    if args.source.is_file() && !models::is_model_file(&args.source) {
        return Ok((read_file(args)?, Known::default()));
    }
    let model = models::directory_of(&args.source)?;
    if !model.exists() {
        let message = format!("{}: no such model directory or spectra file", args.source.display());
        return Err(WrongInput::with_hint(message, models::WHAT_MODEL_IS).into());
    }
    let opened = open_model(&model, &host())?;
    let selected = of_model(&args.selection, opened.skeleton())?;
    let calibration = open_calibration(args.method.calibration.as_deref())?;
    let norms = recipe.norms(calibration.as_ref())?;
    measure_within(&opened.checkpoint, &selected, norms, &args.resources)
}

fn read_file(args: &PlanArgs) -> Result<Spectra> {
    if args.method.calibration.is_some() {
        let message = "--calibration: the spectra have already been measured";
        let hint = "give the model directory instead of the spectra file";
        return Err(WrongInput::with_hint(message, hint).into());
    }
    let spectra = in_file(Spectra::from_json(&read_artifact(&args.source)?), &args.source)?;
    // Without patterns, the file is taken as it is, whichever patterns it was measured with.
    if args.selection.include.is_empty() && args.selection.exclude.is_empty() {
        return Ok(spectra);
    }
    Ok(spectra.select(&of_file(&args.selection)?)?)
}
