//! `--report` and `--picture`: the page and the picture of a command's results.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde_json::{Map, Value};
use welore_burn::files::write_file;
use welore_burn::named::Named;
use welore_burn::plan::Target;
use welore_burn::report::{Fact, Report, ReportModel, Topic, frontier_svg};
use welore_burn::train::{RUN_FILE, RunFile};

use super::artifacts::{check_artifact, read_artifact};
use super::inputs::place_of;
use super::{card, gradients, labels};
use crate::args::PageArgs;
use crate::failure::WrongInput;
use crate::models::Artifact;

/// What measures each thing that the top of a page may lack.
const HOW_TO_MEASURE: [(Topic, &str); 6] = [
    (Topic::Size, "welore-cli report --plan DIR"),
    (
        Topic::Perplexity,
        "welore-cli eval DIR --text TEXT --against MODEL --json > FILE, then report --eval FILE",
    ),
    (
        Topic::Divergence,
        "welore-cli eval DIR --text TEXT --against MODEL --json > FILE, then report --eval FILE",
    ),
    (
        Topic::Accuracy,
        "welore-cli eval DIR --task TASK --data PATH --json > FILE, then report --eval FILE",
    ),
    (Topic::Speed, "welore-cli eval DIR --text TEXT --json > FILE, then report --eval FILE"),
    (Topic::Work, "welore-cli report --plan DIR"),
];

/// An empty page.
pub fn new_page(title: &str) -> Report {
    let mut report = Report::new(title, card::MADE_BY);
    for (topic, how) in HOW_TO_MEASURE {
        report.missing(topic, how);
    }
    report
}

/// Checks that the requested page, if any, can be written, and is neither the command's output nor
/// one of its inputs.
pub fn check_page<'a>(
    args: &PageArgs,
    output: Option<&'a Path>,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<()> {
    let Some(path) = &args.report else { return Ok(()) };
    if output.is_some_and(|output| output == path || place_of(output) == place_of(path)) {
        let message = format!("{}: both the output and the --report page", path.display());
        return Err(WrongInput::with_hint(message, "give the page another name").into());
    }
    check_artifact(Some(path), Artifact::Page, inputs.into_iter().chain(output))
}

/// Writes the requested page, if any, with what `fill` puts on it.
pub fn write_page(
    args: &PageArgs,
    title: &str,
    fill: impl FnOnce(&mut Report) -> Result<()>,
) -> Result<()> {
    let Some(path) = &args.report else { return Ok(()) };
    let mut report = new_page(title);
    fill(&mut report)?;
    write_file(path, report.to_html().as_bytes())?;
    note!("wrote {}", path.display());
    Ok(())
}

/// Checks that the requested picture, if any, can be written, and is neither the page nor one of the
/// inputs.
pub fn check_picture<'a>(
    picture: Option<&Path>,
    page: Option<&Path>,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<()> {
    let Some(path) = picture else { return Ok(()) };
    if page.is_some_and(|page| page == path || place_of(page) == place_of(path)) {
        let message = format!("{}: both the page and the --picture", path.display());
        return Err(WrongInput::with_hint(message, "give the picture another name").into());
    }
    check_artifact(Some(path), Artifact::Picture, inputs)
}

/// Writes the picture of measured models, with a note.
pub fn write_picture(path: &Path, title: &str, models: &[ReportModel]) -> Result<()> {
    write_file(path, frontier_svg(title, models).as_bytes())?;
    note!("wrote {}", path.display());
    Ok(())
}

/// What happened in the steps of a run.
const METRICS_FILE: &str = "metrics.jsonl";

/// Puts a run on a page.
pub fn add_run(report: &mut Report, dir: &Path) -> Result<()> {
    if !dir.join(METRICS_FILE).exists() {
        let message = format!("{}: not a run, it has no {METRICS_FILE}", dir.display());
        return Err(WrongInput::with_hint(message, "give what `welore-cli train -o` wrote").into());
    }
    let metrics = read_artifact(&dir.join(METRICS_FILE))?;
    let label = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy();
    report.run(&label, &metrics);
    if dir.join(RUN_FILE).is_file() {
        let how = tuning(&RunFile::read(dir)?, &metrics);
        report.fact(Fact::text(Topic::Work, format!("tuning in {label}"), how));
    }
    if let Some((records, dynamics)) = gradients::read(dir)? {
        report.gradients(&label, &records, &dynamics);
    }
    Ok(())
}

/// What a run trained, and how, as far as it has come.
fn tuning(run: &RunFile, metrics: &str) -> String {
    let lines = metrics.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut steps = lines.filter(|line| line["loss"].is_number());
    let steps = steps.next().and_then(|line| line["step"].as_u64()).unwrap_or(0);
    let options = &run.options;
    let rows = options.batch_size.saturating_mul(options.accumulate);
    format!(
        "{}, {steps} of {} steps of {rows} x {} tokens, learning rate {}",
        options.trainable.name(),
        options.steps,
        options.seq_len,
        options.lr
    )
}

/// The rows that `compare --json` prints; `None` if it is something else.
pub fn compared_models(value: &Value) -> Option<Vec<ReportModel>> {
    let texts = value["texts"].as_array()?.iter();
    let texts = shown(texts.map(|text| text.as_str().unwrap_or_default()).collect());
    let rows = value["rows"].as_array()?;
    let files: Vec<&str> = rows.iter().filter_map(file_of).collect();
    let names: BTreeMap<&str, String> = files.iter().copied().zip(shown(files.clone())).collect();
    let by_text = |measured: &[Value]| -> Map<String, Value> {
        texts.iter().cloned().zip(measured.iter().cloned()).collect()
    };
    let model = |row: &Value| {
        let perplexities = by_text(row["perplexities"].as_array()?);
        // Earlier versions did not measure them.
        let divergences = by_text(row["kls"].as_array().map_or(&[], Vec::as_slice));
        let (label, series) = (label_of(row, &names)?, series_of(row));
        let (parameters, bytes) = (row["parameters"].as_u64()?, row["bytes"].as_u64()?);
        Some(ReportModel { label, series, perplexities, divergences, parameters, bytes })
    };
    rows.iter().map(model).collect()
}

/// The plan or the model that a row is about, if it was given.
fn file_of(row: &Value) -> Option<&str> {
    row["plan"].as_str().or(row["model"].as_str())
}

/// Files as a page shows them: directories are private, so they are shown only if names alone do not
/// tell the files apart.
fn shown(paths: Vec<&str>) -> Vec<String> {
    let names: Vec<String> = paths
        .iter()
        .map(|path| Path::new(path).file_name().unwrap_or_default().to_string_lossy().into())
        .collect();
    let distinct = names.iter().collect::<BTreeSet<_>>().len() == names.len();
    if distinct { names } else { paths.into_iter().map(String::from).collect() }
}

/// The series that a row is of: the one that was named for a model, or the way in which the model of the
/// row was made.
fn series_of(row: &Value) -> Option<String> {
    if let Some(name) = row["series"].as_str() {
        return Some(name.into());
    }
    let is_made = row["method"] != "dense" && row["model"].is_null();
    if is_made { way_of(row) } else { None }
}

/// Method, policy and storage of a row, as far as it states them.
fn way_of(row: &Value) -> Option<String> {
    let method = row["method"].as_str()?;
    let parts = ["policy", "storage"].into_iter().filter_map(|part| row[part].as_str());
    let parts = parts.filter(|part| !part.is_empty());
    Some([method].into_iter().chain(parts).collect::<Vec<&str>>().join("/"))
}

/// Method, policy, storage and target of a row, as far as it states them: earlier versions had no
/// other target than a share of the parameters. `names` are those of plans and models.
fn label_of(row: &Value, names: &BTreeMap<&str, String>) -> Option<String> {
    let method = row["method"].as_str()?;
    if method == "dense" {
        return Some(method.into());
    }
    if let Some(model) = row["model"].as_str() {
        return names.get(model).cloned();
    }
    let target = match row["plan"].as_str() {
        Some(plan) => format!("plan {}", names.get(plan)?),
        None => match serde_json::from_value::<Target>(row["target"].clone()) {
            Ok(target) => labels::of_target(&target),
            Err(_) => format!("keep {}", row["keep"].as_f64()?),
        },
    };
    let norm =
        row["norm"].as_str().map(|norm| format!(" (norm of the {norm})")).unwrap_or_default();
    Some(format!("{}{norm}, {target}", way_of(row)?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_labelled_by_all_that_tells_them_apart() {
        let row = |target: Value, plan: Value| {
            json!({
                "method": "best", "policy": "loss", "storage": "pivot", "norm": "loss",
                "keep": null, "target": target, "plan": plan,
            })
        };
        let bytes = row(json!({ "max_bytes": 4_000_000 }), Value::Null);
        let names = BTreeMap::from([("plans/mine.json", "mine.json".to_string())]);
        let expected = "best/loss/pivot (norm of the loss), at most 4.0 MB";
        assert_eq!(label_of(&bytes, &names).as_deref(), Some(expected));
        let given = row(json!({ "err": 0.3 }), json!("plans/mine.json"));
        let given = label_of(&given, &names).unwrap();
        assert!(given.ends_with(", plan mine.json"), "{given}");
        let earlier = json!({
            "method": "svd", "policy": "welore", "storage": "factors", "keep": 0.8,
        });
        assert_eq!(label_of(&earlier, &names).as_deref(), Some("svd/welore/factors, keep 0.8"));
        let dense = json!({ "method": "dense" });
        assert_eq!(label_of(&dense, &names).as_deref(), Some("dense"));
        assert_eq!((series_of(&dense), series_of(&bytes)), (None, Some("best/loss/pivot".into())));
        let model = json!({ "method": "as given", "model": "low", "series": "low rank" });
        assert_eq!(series_of(&model).as_deref(), Some("low rank"));
        assert_eq!(series_of(&json!({ "method": "as given", "model": "low" })), None);
    }

    #[test]
    fn directories_are_shown_where_names_do_not_tell_files_apart() {
        assert_eq!(shown(vec!["a/one.json", "b/two.json"]), ["one.json", "two.json"]);
        assert_eq!(shown(vec!["a/plan.json", "b/plan.json"]), ["a/plan.json", "b/plan.json"]);
    }
}
