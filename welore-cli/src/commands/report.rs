//! `report`: one HTML page of artifacts; and `--report`, the page of what a command made.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};
use welore_burn::checkpoint::write_file;
use welore_burn::llama::read_plan;
use welore_burn::plan::RankPlan;
use welore_burn::report::{Report, ReportModel};
use welore_burn::spectrum::Spectra;

use super::train::gradients;
use super::{check_artifact, in_file, read_artifact};
use crate::args::{PageArgs, ReportArgs};
use crate::failure::WrongInput;

/// Runs the command.
pub fn run(args: ReportArgs) -> Result<()> {
    check_artifact(Some(&args.output))?;
    let mut report = page(args.title.as_deref().unwrap_or("Low-rank compression"));
    if let Some(path) = &args.spectra {
        report.spectra(&in_file(Spectra::from_json(&read_artifact(path)?), path)?);
    }
    if let Some(path) = &args.plan {
        report.plan(&plan(path)?);
    }
    if let Some(path) = &args.compare {
        report.models(&models_in(path)?);
    }
    for path in &args.run {
        add_run(&mut report, path)?;
    }
    write_file(&args.output, report.to_html().as_bytes())?;
    say!("wrote {}", args.output.display());
    Ok(())
}

fn page(title: &str) -> Report {
    Report::new(title, concat!("welore-cli ", env!("CARGO_PKG_VERSION")))
}

/// Checks that the page that is asked for, if one is, can be written, and does not take the place
/// of what else the command writes.
pub(super) fn check_page(args: &PageArgs, output: Option<&Path>) -> Result<()> {
    let Some(path) = &args.report else { return Ok(()) };
    if output == Some(path.as_path()) {
        let message = format!("{}: both the output and the --report", path.display());
        let hint = Some("give the page another name".into());
        return Err(WrongInput { message, hint }.into());
    }
    check_artifact(Some(path))
}

/// Writes the page that is asked for, if one is, of what `fill` puts on it.
pub(super) fn write_page(
    args: &PageArgs,
    title: &str,
    fill: impl FnOnce(&mut Report) -> Result<()>,
) -> Result<()> {
    let Some(path) = &args.report else { return Ok(()) };
    let mut report = page(title);
    fill(&mut report)?;
    write_file(path, report.to_html().as_bytes())?;
    note!("wrote {}", path.display());
    Ok(())
}

/// Puts a run on a page.
pub(super) fn add_run(report: &mut Report, dir: &Path) -> Result<()> {
    let metrics = read_artifact(&dir.join("metrics.jsonl"))?;
    let label = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy();
    report.run(&label, &metrics);
    if let Some((records, dynamics)) = gradients::read(dir)? {
        report.gradients(&label, &records, &dynamics);
    }
    Ok(())
}

/// A plan file, or that of a compressed model directory.
fn plan(path: &Path) -> Result<RankPlan> {
    if path.is_dir() {
        return read_plan(path)?.ok_or_else(|| {
            let message = format!("{}: this model was not compressed by a plan", path.display());
            WrongInput { message, hint: None }.into()
        });
    }
    in_file(RankPlan::from_json(&read_artifact(path)?), path)
}

/// The rows of a file that `compare --json` printed.
fn models_in(path: &Path) -> Result<Vec<ReportModel>> {
    let value: Option<Value> = serde_json::from_str(&read_artifact(path)?).ok();
    value.as_ref().and_then(models).ok_or_else(|| {
        let message = format!("{}: not what `compare --json` prints", path.display());
        WrongInput { message, hint: None }.into()
    })
}

/// The rows that `compare --json` prints; `None` if it is something else.
pub(super) fn models(value: &Value) -> Option<Vec<ReportModel>> {
    let texts = value["texts"].as_array()?.iter();
    let texts: Vec<&str> = texts.map(|text| text.as_str().unwrap_or_default()).collect();
    // Where a text lies is nobody else's business, unless names alone do not tell texts apart.
    let names: Vec<String> = texts
        .iter()
        .map(|text| Path::new(text).file_name().unwrap_or_default().to_string_lossy().into())
        .collect();
    let distinct = names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let texts = if distinct { names } else { texts.into_iter().map(String::from).collect() };
    let rows = value["rows"].as_array()?;
    let model = |row: &Value| {
        let measured = row["perplexities"].as_array()?;
        let perplexities: Map<String, Value> =
            texts.iter().cloned().zip(measured.iter().cloned()).collect();
        let keep = row["keep"].as_f64()?;
        let method = row["method"].as_str()?;
        let label = match method {
            "dense" => method.to_string(),
            _ => format!("{method}, {}, {keep}", row["storage"].as_str()?),
        };
        let (parameters, bytes) = (row["parameters"].as_u64()?, row["bytes"].as_u64()?);
        Some(ReportModel { label, perplexities, parameters, bytes })
    };
    rows.iter().map(model).collect()
}
