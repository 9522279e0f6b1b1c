//! What people look at: one HTML page of the artifacts, with nothing to load from anywhere, and
//! model cards.
//!
//! [`Report`] gathers spectra, a plan, measured models and runs, and fills a page that draws
//! them: curves, a map of layers and matrices, tables. [`ModelCard`] is the `README.md` of a
//! compressed model. No tensors, no files.

mod card;

use bytesize::ByteSize;
pub use card::{Measurement, ModelCard, tuned_card};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::plan::{RankPlan, Target};
use crate::spectrum::{Spectra, SpectrumUnit};

const TEMPLATE: &str = include_str!("template.html");
const PLACEHOLDER: &str = "__WELORE_DATA__";

/// Points of a curve; more could not be seen.
const POINTS: usize = 64;

/// Steps of a run that are drawn; more could not be seen either.
const STEPS: usize = 2000;

/// A page in the making.
#[derive(Debug, Clone)]
pub struct Report {
    data: Map<String, Value>,
}

/// A model that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct ReportModel {
    /// What it is called.
    pub label: String,
    /// Perplexity by text.
    pub perplexities: Map<String, Value>,
    /// Parameters of the whole model.
    pub parameters: u64,
    /// Bytes of the whole model.
    pub bytes: u64,
}

impl Report {
    /// A page with nothing but a title, and the program that makes it.
    pub fn new(title: &str, made_by: &str) -> Self {
        let mut data = Map::new();
        data.insert("title".into(), title.into());
        data.insert("made_by".into(), made_by.into());
        Self { data }
    }

    /// Adds singular values, each curve by at most 64 of its points, which the largest and the
    /// smallest are among.
    pub fn spectra(&mut self, spectra: &Spectra) {
        let matrices: Vec<Value> = spectra
            .matrices
            .iter()
            .map(|matrix| {
                let values = &matrix.singular_values;
                let points: Vec<Value> = places(values.len(), POINTS)
                    .into_iter()
                    .map(|place| json!([place, values[place]]))
                    .collect();
                let (layer, kind) = place_of(&matrix.name);
                json!({
                    "name": matrix.name,
                    "layer": layer,
                    "kind": kind,
                    "shape": matrix.shape,
                    "full_rank": matrix.full_rank(),
                    "points": points,
                })
            })
            .collect();
        let unit = match spectra.unit {
            SpectrumUnit::Weights => "weights",
            SpectrumUnit::Inputs => "inputs",
            SpectrumUnit::Loss => "loss",
        };
        self.data.insert("spectra".into(), json!({ "unit": unit, "matrices": matrices }));
    }

    /// Adds a plan, with its totals at the top of the page.
    pub fn plan(&mut self, plan: &RankPlan) {
        let matrices: Vec<Value> = plan
            .matrices
            .iter()
            .map(|m| {
                let (layer, kind) = place_of(&m.name);
                json!({
                    "name": m.name,
                    "layer": layer,
                    "kind": kind,
                    "shape": m.shape,
                    "full_rank": m.full_rank,
                    "rank": m.rank,
                    "low_rank": m.low_rank,
                    "storage": m.storage,
                    "before": m.parameters_before,
                    "after": m.parameters_after,
                })
            })
            .collect();
        let target = match plan.target {
            Target::Err(err) => format!("ERR {err}"),
            Target::KeepParams(share) => format!("keep {share} of the parameters"),
            Target::MaxBytes(bytes) => format!("at most {}", ByteSize(bytes).display().si()),
        };
        let totals = &plan.totals;
        let summary = json!([
            ["parameters before", totals.parameters_before],
            ["parameters after", totals.parameters_after],
            ["bytes before", totals.bytes_before],
            ["bytes after", totals.bytes_after],
            ["ERR planned", totals.err],
            ["ERR applied", totals.err_applied],
            ["matrices", totals.matrices],
            ["LRCs", totals.lrcs],
        ]);
        self.data.insert("summary".into(), summary);
        let plan = json!({ "policy": plan.policy, "target": target, "matrices": matrices });
        self.data.insert("plan".into(), plan);
    }

    /// Adds measured models.
    pub fn models(&mut self, models: &[ReportModel]) {
        self.data.insert("models".into(), json!(models));
    }

    /// Adds a run by the lines of its `metrics.jsonl`. Lines that are no objects are left out.
    /// Of very long runs every so many steps are drawn.
    pub fn run(&mut self, label: &str, metrics: &str) {
        let lines: Vec<Value> =
            metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
        for line in &lines {
            if line["loss"].is_number() {
                let fields = ["step", "loss", "lr", "grad_norm", "tokens_per_second"];
                steps.push(fields.map(|field| (field.to_string(), line[field].clone())));
            }
            for name in ["perplexity", "accuracy"].into_iter().filter(|name| line[name].is_number())
            {
                let (step, value) = (&line["step"], &line[name]);
                evaluations.push(json!({ "step": step, "value": value, "name": name }));
            }
        }
        let steps: Vec<Value> = places(steps.len(), STEPS)
            .into_iter()
            .map(|place| Value::Object(steps[place].iter().cloned().collect()))
            .collect();
        let run = json!({ "label": label, "steps": steps, "evaluations": evaluations });
        match self.data.entry("runs").or_insert_with(|| json!([])) {
            Value::Array(runs) => runs.push(run),
            _ => unreachable!("runs are a list"),
        }
    }

    /// The page: HTML that stands alone.
    pub fn to_html(&self) -> String {
        let data = Value::Object(self.data.clone()).to_string();
        // Inside a script element nothing but its end has to be hidden.
        TEMPLATE.replacen(PLACEHOLDER, &data.replace('<', "\\u003c"), 1)
    }
}

/// At most `most` places of `count`, evenly spread, the first and the last among them.
fn places(count: usize, most: usize) -> Vec<usize> {
    if count <= most {
        return (0..count).collect();
    }
    (0..most).map(|n| n * (count - 1) / (most - 1)).collect()
}

/// Layer and kind of a matrix, by its name: `model.layers.3.self_attn.q_proj` is `(3, q_proj)`.
fn place_of(name: &str) -> (Option<u64>, &str) {
    let layer = name.split('.').find_map(|part| part.parse().ok());
    (layer, name.rsplit('.').next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data_of(html: &str) -> Value {
        let start = html.find("type=\"application/json\">").unwrap() + 24;
        let end = start + html[start..].find("</script>").unwrap();
        serde_json::from_str(&html[start..end]).unwrap()
    }

    #[test]
    fn what_goes_in_comes_out_and_cannot_end_the_script() {
        let mut report = Report::new("</script><b>title", "test");
        report.run("a", "{\"step\":1,\"loss\":2.5}\nnonsense\n{\"step\":1,\"perplexity\":9.0}\n");
        let html = report.to_html();
        let data = data_of(&html);
        assert_eq!(data["title"], "</script><b>title");
        assert_eq!(data["runs"][0]["steps"][0]["loss"], 2.5);
        assert_eq!(data["runs"][0]["evaluations"][0]["value"], 9.0);
        assert!(!html.contains("</script><b>") && !html.contains(PLACEHOLDER));
        assert!(!html.contains("src=\"http") && !html.contains("href=\"http"));
    }

    #[test]
    fn places_keep_both_ends() {
        assert_eq!(places(5, 10), [0, 1, 2, 3, 4]);
        let places = places(1000, 64);
        assert_eq!((places.len(), places[0], places[63]), (64, 0, 999));
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(place_of("model.layers.3.self_attn.q_proj"), (Some(3), "q_proj"));
        assert_eq!(place_of("head"), (None, "head"));
    }
}
