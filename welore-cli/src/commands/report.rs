//! `report`: one HTML page of artifacts.

use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};
use welore_burn::llama::read_plan;
use welore_burn::plan::RankPlan;
use welore_burn::report::{Report, ReportModel};
use welore_burn::spectrum::Spectra;

use super::train::gradients;
use super::{check_artifact, in_file, read_artifact};
use crate::args::ReportArgs;
use crate::failure::WrongInput;

/// Runs the command.
pub fn run(args: ReportArgs) -> Result<()> {
    check_artifact(Some(&args.output))?;
    let title = args.title.as_deref().unwrap_or("Low-rank compression");
    let mut report = Report::new(title, concat!("welore-cli ", env!("CARGO_PKG_VERSION")));
    if let Some(path) = &args.spectra {
        report.spectra(&in_file(Spectra::from_json(&read_artifact(path)?), path)?);
    }
    if let Some(path) = &args.plan {
        report.plan(&plan(path)?);
    }
    if let Some(path) = &args.compare {
        report.models(&models(path)?);
    }
    for path in &args.run {
        let metrics = read_artifact(&path.join("metrics.jsonl"))?;
        let label = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        report.run(&label, &metrics);
        if let Some((records, dynamics)) = gradients::read(path)? {
            report.gradients(&label, &records, &dynamics);
        }
    }
    welore_burn::checkpoint::write_file(&args.output, report.to_html().as_bytes())?;
    say!("wrote {}", args.output.display());
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

/// The rows that `compare --json` printed.
fn models(path: &Path) -> Result<Vec<ReportModel>> {
    let wrong = || {
        let message = format!("{}: not what `compare --json` prints", path.display());
        WrongInput { message, hint: None }
    };
    let value: Value = serde_json::from_str(&read_artifact(path)?).map_err(|_| wrong())?;
    let texts: Vec<String> = value["texts"]
        .as_array()
        .ok_or_else(wrong)?
        .iter()
        .map(|text| text.as_str().unwrap_or_default().to_string())
        .collect();
    let rows = value["rows"].as_array().ok_or_else(wrong)?;
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
    Ok(rows.iter().map(model).collect::<Option<Vec<_>>>().ok_or_else(wrong)?)
}
