//! `report`: an HTML page of artifacts.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use welore_burn::files::write_file;
use welore_burn::report::ReportModel;
use welore_burn::spectrum::Spectra;

use crate::args::ReportArgs;
use crate::failure::WrongInput;
use crate::models::Artifact;
use crate::shared::artifacts::{check_artifact, in_file, read_artifact};
use crate::shared::identity::{Subject, check_one_model};
use crate::shared::page::{add_run, check_picture, compared_models, new_page, write_picture};
use crate::shared::planning::plan_in;

/// Runs the command.
pub fn run(args: ReportArgs) -> Result<()> {
    let files = [&args.spectra, &args.plan, &args.compare].into_iter().flatten();
    let inputs: Vec<&Path> = files.chain(&args.run).map(|path| path.as_path()).collect();
    check_artifact(Some(&args.output), Artifact::Page, inputs.iter().copied())?;
    check_picture(args.picture.as_deref(), Some(&args.output), inputs)?;
    let title = args.title.as_deref().unwrap_or("Low-rank compression");
    let mut report = new_page(title);
    let (mut subjects, mut measured) = (Vec::new(), Vec::new());
    if let Some(path) = &args.spectra {
        let spectra = in_file(Spectra::from_json(&read_artifact(path)?), path)?;
        report.spectra(&spectra);
        subjects.push(Subject::of_spectra(path, &spectra));
    }
    if let Some(path) = &args.plan {
        let plan = plan_in(path)?;
        report.plan(&plan);
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
    for path in &args.run {
        add_run(&mut report, path)?;
    }
    if let Some(path) = &args.picture {
        write_picture(path, title, &measured)?;
    }
    write_file(&args.output, report.to_html().as_bytes())?;
    say!("wrote {}", args.output.display());
    Ok(())
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
