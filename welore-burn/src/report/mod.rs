//! Output for people: one HTML page of the artifacts, which loads nothing from elsewhere, a picture of
//! sizes and divergences, and model cards.
//!
//! [`Report`] gathers spectra, a plan, measured models, runs and their gradients, and fills a page
//! that draws them: curves, maps of layers and matrices, tables. At its top it says what these say of
//! the size, the quality and the speed of the model, and of what was done to it. [`frontier_svg`] draws measured models
//! for documents. [`ModelCard`] is the `README.md` of a compressed model, [`ChannelCard`] that of one with
//! fewer channels. This room uses no tensors and no files.

mod axis;
mod base_model;
mod card;
mod changed_card;
mod channel_card;
mod labels;
mod loading;
mod measurement;
mod opening;
mod picture;

use bytesize::ByteSize;
pub use card::ModelCard;
pub use changed_card::{ConvertedCard, converted_card, tuned_card};
pub use channel_card::ChannelCard;
pub use measurement::Measurement;
pub use opening::{Fact, FactUnit, Topic};
pub use picture::frontier_svg;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::escape;
use crate::forms::is_factor;
use crate::plan::{PlanTotals, RankPlan, Target};
use crate::spectrum::{Spectra, SpectrumUnit};
use crate::train::{
    GradientDynamics, GradientRecord, SETTLED_SHARE, SETTLED_WINDOW, WeightRank, places,
};

const TEMPLATE: &str = include_str!("template.html");
const PLACEHOLDER: &str = "__WELORE_DATA__";

/// The most points of a curve; more could not be seen.
const POINTS: usize = 64;

/// The most steps of a run that are drawn; more could not be seen either.
const STEPS: usize = 2000;

/// The most gradient records of a matrix that are drawn, for the same reason.
const RECORDS: usize = 200;

/// The data of a page.
#[derive(Debug, Clone)]
pub struct Report {
    data: Map<String, Value>,
    facts: Vec<Fact>,
    missing: Vec<(Topic, String)>,
    /// Those of the plan, if there is one.
    totals: Option<PlanTotals>,
}

/// A model that was measured.
#[derive(Debug, Clone, Serialize)]
pub struct ReportModel {
    /// Its name on the page.
    pub label: String,
    /// The series that it belongs to, such as one way to compress for several targets: the models of a
    /// series have one colour and one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// Perplexity by text.
    pub perplexities: Map<String, Value>,
    /// Mean KL divergence from the dense model by text; empty if it was not measured.
    pub divergences: Map<String, Value>,
    /// Number of parameters of the whole model.
    pub parameters: u64,
    /// Bytes of the whole model.
    pub bytes: u64,
}

impl Report {
    /// A page that has only a title and the name of the program that makes it.
    pub fn new(title: &str, made_by: &str) -> Self {
        let mut data = Map::new();
        data.insert("title".into(), title.into());
        data.insert("made_by".into(), made_by.into());
        Self { data, facts: Vec::new(), missing: Vec::new(), totals: None }
    }

    /// Adds a line to the top of the page, after those about the same topic.
    pub fn fact(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    /// Says how something would be measured, where nothing on the page measured it. A page without any
    /// [`Fact`] does not say it.
    pub fn missing(&mut self, topic: Topic, how: &str) {
        self.missing.push((topic, how.into()));
    }

    /// Adds singular values: at most 64 of each matrix, including the largest and the smallest.
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
                let (layer, kind) = place_of(matrix.name.as_str());
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
        let unit = norm_of(spectra.unit);
        self.data.insert("spectra".into(), json!({ "unit": unit, "matrices": matrices }));
    }

    /// Adds a plan, with its totals, and what they say at the top of the page.
    pub fn plan(&mut self, plan: &RankPlan) {
        let matrices: Vec<Value> = plan
            .matrices
            .iter()
            .map(|m| {
                let (layer, kind) = place_of(m.name.as_str());
                json!({
                    "name": m.name,
                    "layer": layer,
                    "kind": kind,
                    "shape": m.shape,
                    "full_rank": m.full_rank,
                    "rank": m.rank,
                    "low_rank": m.is_low_rank(),
                    "adapted": m.adapted,
                    "form": m.form.to_string(),
                    "before": m.parameters_before,
                    "after": m.parameters_after,
                    "error": m.error.map(|error| error.relative_error),
                    "stored_error": m.error.map(|error| error.stored_error),
                })
            })
            .collect();
        let target = in_words(plan.target);
        let totals = &plan.totals;
        let speed = totals.expected_speed;
        let times = |value: f64| format!("{value:.2}x the dense model's");
        let mut summary = vec![
            json!(["parameters before", totals.parameters_before]),
            json!(["parameters after", totals.parameters_after]),
            json!(["bytes before", totals.bytes_before]),
            json!(["bytes after", totals.bytes_after]),
            json!(["share of ranks planned to go (ERR)", totals.err]),
            json!(["share of ranks removed", totals.err_applied]),
            json!(["matrices", totals.matrices]),
            json!(["factored matrices (LRCs)", totals.lrcs]),
            json!(["expected speed on a CPU, many tokens at a time", times(speed.many_tokens)]),
            json!(["expected speed on a CPU, one token at a time", times(speed.one_token)]),
        ];
        if let Some(loss) = totals.expected_loss {
            summary.push(json!(["expected rise of the loss, in nats per token", loss]));
        }
        if let Some(loss) = totals.stored_loss {
            summary.push(json!(["expected rise of the loss as stored, in nats per token", loss]));
        }
        self.data.insert("summary".into(), summary.into());
        self.facts.extend(opening::of_plan(plan, &target));
        self.totals = Some(plan.totals);
        let plan = json!({
            "policy": plan.policy,
            "norm": norm_of(plan.unit),
            "target": target,
            "matrices": matrices,
        });
        self.data.insert("plan".into(), plan);
    }

    /// Adds measured models. The top of the page says how good the one is that was planned, if a plan was
    /// added before and it is among them, and otherwise those that no smaller one equals.
    pub fn models(&mut self, models: &[ReportModel]) {
        self.facts.extend(opening::of_models(models, self.totals.as_ref()));
        self.data.insert("models".into(), json!(models));
    }

    /// Adds a run from the lines of its `metrics.jsonl`. Lines that are not JSON are skipped. At
    /// most 2000 steps are drawn, evenly spaced.
    pub fn run(&mut self, label: &str, metrics: &str) {
        let lines: Vec<Value> =
            metrics.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        self.facts.extend(opening::of_run(label, &lines));
        let (mut steps, mut evaluations) = (Vec::new(), Vec::new());
        for line in &lines {
            if line["loss"].is_number() {
                let fields = ["step", "loss", "lr", "grad_norm", "tokens_per_second"];
                steps.push(fields.map(|field| (field.to_string(), line[field].clone())));
            }
            for name in ["perplexity", "accuracy", "watched_perplexity"] {
                let (step, value) = (&line["step"], &line[name]);
                if value.is_number() {
                    let name = name.replace('_', " ");
                    evaluations.push(json!({ "step": step, "value": value, "name": name }));
                }
            }
        }
        let steps: Vec<Value> = places(steps.len(), STEPS)
            .into_iter()
            .map(|place| Value::Object(steps[place].iter().cloned().collect()))
            .collect();
        let run = json!({ "label": label, "steps": steps, "evaluations": evaluations });
        self.push("runs", run);
    }

    /// Adds the gradients of a run: its records, of which at most 200 per matrix are drawn, evenly
    /// spaced, and their summary.
    pub fn gradients(
        &mut self,
        label: &str,
        records: &[GradientRecord],
        dynamics: &GradientDynamics,
    ) {
        let matrices: Vec<Value> = dynamics
            .matrices
            .iter()
            .map(|matrix| {
                let of: Vec<&GradientRecord> =
                    records.iter().filter(|record| record.name == matrix.name).collect();
                let drawn = places(of.len(), RECORDS).into_iter().map(|place| {
                    let GradientRecord { step, norm, stable_rank, similarity, .. } = of[place];
                    json!({
                        "step": step,
                        "norm": norm,
                        "stable_rank": stable_rank,
                        "similarity": similarity,
                    })
                });
                let (layer, kind) = place_of(matrix.name.as_str());
                let rank = |figure: fn(&WeightRank) -> f64| matrix.weight.as_ref().map(figure);
                json!({
                    "name": matrix.name,
                    "layer": layer,
                    "kind": kind,
                    "shape": matrix.shape,
                    "directions": matrix.rank,
                    "level": matrix.level,
                    "similarity": matrix.similarity,
                    "settled": matrix.settled,
                    "final_rank": rank(|weight| weight.effective as f64),
                    "final_share": rank(|weight| weight.share),
                    "final_stable_rank": rank(|weight| weight.stable),
                    "records": drawn.collect::<Vec<Value>>(),
                })
            })
            .collect();
        let part = json!({
            "label": label,
            "share": SETTLED_SHARE,
            "window": SETTLED_WINDOW,
            "matrices": matrices,
        });
        self.push("gradients", part);
    }

    /// Adds one of several parts of a kind.
    fn push(&mut self, kind: &str, part: Value) {
        match self.data.entry(kind).or_insert_with(|| json!([])) {
            Value::Array(parts) => parts.push(part),
            _ => unreachable!("parts of a kind are a list"),
        }
    }

    /// The page as self-contained HTML.
    pub fn to_html(&self) -> String {
        let mut data = self.data.clone();
        if let Some(opening) = opening::opening(&self.facts, &self.missing) {
            data.insert("opening".into(), opening);
        }
        let data = Value::Object(data).to_string();
        TEMPLATE.replacen(PLACEHOLDER, &escape::script_json(&data), 1)
    }
}

/// What a plan was made for.
fn in_words(target: Option<Target>) -> String {
    match target {
        Some(Target::Err(err)) => format!("ERR {err}"),
        Some(Target::ErrApplied(err)) => format!("applied ERR {err}"),
        Some(Target::KeepParams(share)) => format!("keep {share} of the parameters"),
        Some(Target::MaxBytes(bytes)) => format!("at most {}", ByteSize(bytes).display().si()),
        None => "chosen by hand".into(),
    }
}

/// What errors are measured in.
fn norm_of(unit: SpectrumUnit) -> &'static str {
    match unit {
        SpectrumUnit::Weights => "weights",
        SpectrumUnit::Inputs => "inputs",
        SpectrumUnit::Loss => "loss",
    }
}

/// Layer and kind of a matrix, from its name: `model.layers.3.self_attn.q_proj` is `(3, q_proj)`,
/// and its factor `model.layers.3.self_attn.q_proj.V` is `(3, q_proj.V)`.
fn place_of(name: &str) -> (Option<u64>, &str) {
    let layer = name.split('.').find_map(|part| part.parse().ok());
    let kind = name.rmatch_indices('.').nth(usize::from(is_factor(name)));
    (layer, kind.map_or(name, |(dot, _)| &name[dot + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::read_gradients;

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
    fn evaluations_are_drawn_from_the_start_with_the_watched_text() {
        let mut report = Report::new("title", "test");
        let line = |step: usize| {
            format!("{{\"step\":{step},\"perplexity\":9.0,\"watched_perplexity\":5.5}}\n")
        };
        report.run("a", &(line(0) + &line(4)));
        let evaluations = data_of(&report.to_html())["runs"][0]["evaluations"].clone();
        assert_eq!(evaluations[0], json!({ "step": 0, "value": 9.0, "name": "perplexity" }));
        assert_eq!(
            evaluations[3],
            json!({ "step": 4, "value": 5.5, "name": "watched perplexity" })
        );
    }

    #[test]
    fn gradients_are_drawn_with_what_they_sum_up_to() {
        let name = "model.layers.3.self_attn.q_proj.V";
        let line = |step: usize, similarity: &str| {
            format!(
                "{{\"step\":{step},\"name\":\"{name}\",\"shape\":[16,64],\"norm\":2.0,\
                 \"stable_rank\":1.5,\"full_rank\":16,\"values\":[1.0],\"rank\":2,\
                 \"similarity\":{similarity}}}\n"
            )
        };
        let text: String =
            (0..500).map(|i| line(10 * i + 10, if i == 0 { "null" } else { "0.75" })).collect();
        let records = read_gradients(&text);
        let mut dynamics = GradientDynamics::of(&records);
        const VALUES: &[f64] = &[2.0, 0.5, 0.0, 0.0];
        dynamics.set_weights(|_| Some(VALUES));
        let mut report = Report::new("title", "test");
        report.gradients("first", &records, &dynamics);
        report.gradients("second", &[], &GradientDynamics::of(&[]));
        let data = data_of(&report.to_html());
        let matrix = &data["gradients"][0]["matrices"][0];
        assert_eq!((&matrix["layer"], &matrix["kind"]), (&json!(3), &json!("q_proj.V")));
        assert_eq!((&matrix["settled"], &matrix["level"]), (&json!(20), &json!(0.75)));
        assert_eq!((&matrix["final_rank"], &matrix["final_share"]), (&json!(1.0), &json!(0.25)));
        let drawn = matrix["records"].as_array().unwrap();
        assert_eq!((drawn.len(), &drawn[0]["similarity"]), (200, &Value::Null));
        assert_eq!((&drawn[199]["step"], &drawn[199]["norm"]), (&json!(5000), &json!(2.0)));
        assert_eq!(data["gradients"][1]["label"], "second");
    }

    #[test]
    fn layer_and_kind_are_in_the_name() {
        assert_eq!(place_of("model.layers.3.self_attn.q_proj"), (Some(3), "q_proj"));
        assert_eq!(place_of("model.layers.12.mlp.up_proj.C"), (Some(12), "up_proj.C"));
        assert_eq!(place_of("head"), (None, "head"));
        assert_eq!(place_of("head.U"), (None, "head.U"));
    }
}
