//! `report`: an HTML page of artifacts.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use welore_burn::files::write_file;
use welore_burn::report::{Report, ReportModel};
use welore_burn::spectrum::Spectra;

use crate::args::ReportArgs;
use crate::failure::WrongInput;
use crate::models::Artifact;
use crate::shared::adapter_page::facts_of_adapter;
use crate::shared::artifacts::{check_artifact, in_file, read_artifact};
use crate::shared::evaluated::{facts_of, read_evaluations};
use crate::shared::identity::{Subject, check_one_model};
use crate::shared::page::{add_run, check_picture, compared_models, new_page, write_picture};
use crate::shared::planning::plan_in;

/// Runs the command.
pub fn run(args: ReportArgs) -> Result<()> {
    let inputs = inputs_of(&args);
    check_artifact(Some(&args.output), Artifact::Page, inputs.iter().copied())?;
    check_picture(args.picture.as_deref(), Some(&args.output), inputs)?;
    let title = args.title.as_deref().unwrap_or("Low-rank compression");
    let mut report = new_page(title);
    let measured = add_models(&args, &mut report)?;
    for path in &args.run {
        add_run(&mut report, path)?;
    }
    for path in &args.adapter {
        for fact in facts_of_adapter(path)? {
            report.fact(fact);
        }
    }
    if let Some(path) = &args.picture {
        write_picture(path, title, &measured)?;
    }
    write_file(&args.output, report.to_html().as_bytes())?;
    say!("wrote {}", args.output.display());
    Ok(())
}

fn inputs_of(args: &ReportArgs) -> Vec<&Path> {
    let single = [&args.spectra, &args.plan, &args.compare].into_iter().flatten();
    let several = [&args.eval, &args.run, &args.adapter].into_iter().flatten();
    single.chain(several).map(|path| path.as_path()).collect()
}

/// Adds spectra, plan, measured models and evaluations, which have to be about one model. Returns the
/// measured models.
fn add_models(args: &ReportArgs, report: &mut Report) -> Result<Vec<ReportModel>> {
    let (mut subjects, mut measured, mut totals) = (Vec::new(), Vec::new(), None);
    if let Some(path) = &args.spectra {
        let spectra = in_file(Spectra::from_json(&read_artifact(path)?), path)?;
        report.spectra(&spectra);
        subjects.push(Subject::of_spectra(path, &spectra));
    }
    if let Some(path) = &args.plan {
        let plan = plan_in(path)?;
        report.plan(&plan);
        totals = Some(plan.totals);
        subjects.push(Subject::of_plan(path, &plan));
    }
    if let Some(path) = &args.compare {
        let (models, subject) = models_in(path)?;
        if args.picture.is_some() && models.iter().all(|model| model.divergences.is_empty()) {
            let message = format!("{}: there are no KL divergences to draw", path.display());
            let hint = "`welore-cli compare --kl --json ... > FILE` measures them";
            return Err(WrongInput::with_hint(message, hint).into());
        }
        report.models(&models);
        subjects.extend(subject);
        measured = models;
    }
    check_one_model(&subjects)?;
    let mut evaluations = Vec::new();
    for path in &args.eval {
        evaluations.extend(read_evaluations(path)?);
    }
    for fact in facts_of(&evaluations, totals.as_ref()) {
        report.fact(fact);
    }
    Ok(measured)
}

/// The rows of a file that `compare --json` printed, and the model that they are about.
fn models_in(path: &Path) -> Result<(Vec<ReportModel>, Option<Subject>)> {
    let value: Option<Value> = serde_json::from_str(&read_artifact(path)?).ok();
    let models = value.as_ref().and_then(compared_models).ok_or_else(|| {
        let message = format!("{}: not the output of `compare --json`", path.display());
        WrongInput::with_hint(message, "`welore-cli compare --json ... > FILE` writes one")
    })?;
    Ok((models, value.as_ref().and_then(|value| Subject::of_compared(path, value))))
}
