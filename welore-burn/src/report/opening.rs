//! What a page says first: how big, how good, how fast, and what was done.

use serde_json::{Value, json};

use super::ReportModel;
use crate::plan::{MatrixPlan, PlanTotals, RankPlan};
use crate::spectrum::SpectrumUnit;
use crate::train::places;
use crate::words::{number, number_of};

/// What a line at the top of a page is about, in the order of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Parameters and bytes.
    Size,
    /// Perplexity on a text.
    Perplexity,
    /// The mean KL divergence from the dense model.
    Divergence,
    /// Accuracy on a task.
    Accuracy,
    /// Tokens per second.
    Speed,
    /// What was done to the model.
    Work,
}

impl Topic {
    /// All of them.
    const ALL: [Self; 6] =
        [Self::Size, Self::Perplexity, Self::Divergence, Self::Accuracy, Self::Speed, Self::Work];

    /// The question that it is an answer to.
    fn question(self) -> &'static str {
        match self {
            Self::Size => "How big?",
            Self::Perplexity | Self::Divergence | Self::Accuracy => "How good?",
            Self::Speed => "How fast?",
            Self::Work => "What was done?",
        }
    }

    /// What it says where nothing measured it.
    fn lack(self) -> &'static str {
        match self {
            Self::Size | Self::Work => "not given",
            _ => "not measured",
        }
    }

    /// What is said to be missing.
    fn what(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Perplexity => "perplexity",
            Self::Divergence => "KL divergence from the dense model",
            Self::Accuracy => "accuracy",
            Self::Speed => "tokens per second",
            Self::Work => "method",
        }
    }
}

/// The unit of a number at the top of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactUnit {
    /// A number of things. The page also shows the share that is left.
    Count,
    /// A number of bytes, likewise.
    Bytes,
    /// A plain number.
    Number,
    /// A share, shown as a percentage.
    Share,
}

impl FactUnit {
    fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Number => "number",
            Self::Share => "share",
        }
    }
}

/// A line at the top of a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    topic: Topic,
    what: String,
    is_measured: bool,
    said: Said,
}

#[derive(Debug, Clone, PartialEq)]
enum Said {
    Change { before: Option<f64>, after: f64, unit: FactUnit },
    Text(String),
}

impl Fact {
    /// A number, after what was done and, if it is known, before.
    pub fn change(
        topic: Topic,
        what: impl Into<String>,
        before: Option<f64>,
        after: f64,
        unit: FactUnit,
    ) -> Self {
        let said = Said::Change { before, after, unit };
        Self { topic, what: what.into(), is_measured: true, said }
    }

    /// Something in words.
    pub fn text(topic: Topic, what: impl Into<String>, text: impl Into<String>) -> Self {
        Self { topic, what: what.into(), is_measured: true, said: Said::Text(text.into()) }
    }

    /// The same as what is expected: that nothing was measured is still said.
    pub fn expected(self) -> Self {
        Self { is_measured: false, ..self }
    }

    fn row(&self) -> Value {
        match &self.said {
            Said::Change { before, after, unit } => {
                json!({ "what": self.what, "before": before, "after": after, "unit": unit.name() })
            }
            Said::Text(text) => json!({ "what": self.what, "text": text }),
        }
    }
}

/// Facts by question, with what is missing and how it would be measured. Nothing at all if there are no
/// facts.
pub(super) fn opening(facts: &[Fact], missing: &[(Topic, String)]) -> Option<Value> {
    if facts.is_empty() {
        return None;
    }
    let mut groups: Vec<(&str, Vec<Value>)> = Vec::new();
    for topic in Topic::ALL {
        let of = || facts.iter().filter(move |fact| fact.topic == topic);
        let mut rows: Vec<Value> = of().map(Fact::row).collect();
        if !of().any(|fact| fact.is_measured) {
            let how = missing.iter().filter(|(about, _)| *about == topic);
            rows.extend(how.map(
                |(_, how)| json!({ "what": topic.what(), "lack": topic.lack(), "missing": how }),
            ));
        }
        match groups.iter_mut().find(|(question, _)| *question == topic.question()) {
            Some((_, all)) => all.extend(rows),
            None => groups.push((topic.question(), rows)),
        }
    }
    let groups = groups.into_iter().filter(|(_, rows)| !rows.is_empty());
    Some(groups.map(|(question, rows)| json!({ "question": question, "rows": rows })).collect())
}

/// What a plan says. `target` in words.
pub(super) fn of_plan(plan: &RankPlan, target: &str) -> Vec<Fact> {
    let totals = &plan.totals;
    let size = |what: &str, before: u64, after: u64, unit: FactUnit| {
        Fact::change(Topic::Size, what, Some(before as f64), after as f64, unit)
    };
    let mut facts = vec![
        size("parameters", totals.parameters_before, totals.parameters_after, FactUnit::Count),
        size("bytes", totals.bytes_before, totals.bytes_after, FactUnit::Bytes),
    ];
    if let Some(loss) = totals.stored_loss.or(totals.expected_loss) {
        let what = "expected rise of the loss, in nats per token";
        facts.push(Fact::change(Topic::Perplexity, what, None, loss, FactUnit::Number).expected());
    }
    for (when, times) in [
        ("many tokens at a time", totals.expected_speed.many_tokens),
        ("one token at a time", totals.expected_speed.one_token),
    ] {
        let text = format!("{times:.2}x the dense model's, expected on a CPU");
        facts.push(Fact::text(Topic::Speed, when, text).expected());
    }
    facts.extend(work_of(plan, target));
    facts
}

fn work_of(plan: &RankPlan, target: &str) -> Vec<Fact> {
    let totals = &plan.totals;
    let fact = |what: &str, text: String| Fact::text(Topic::Work, what, text);
    let norm = match plan.unit {
        SpectrumUnit::Weights => "the weights alone",
        SpectrumUnit::Inputs => "weights and inputs",
        SpectrumUnit::Loss => "weights, inputs and gradients",
    };
    let sequential = if plan.sequential { ", each after those before it" } else { "" };
    let mut facts = vec![
        fact("method", format!("policy {}, by {norm}{sequential}", plan.policy)),
        fact("target", target.to_string()),
        fact("factored matrices", format!("{} of {}", totals.lrcs, totals.matrices)),
    ];
    let low = || plan.matrices.iter().filter(|matrix| matrix.is_low_rank());
    let ranks = || low().map(|matrix| matrix.rank);
    if let (Some(least), Some(most)) = (ranks().min(), ranks().max()) {
        facts.push(fact("ranks", format!("{least} to {most}")));
    }
    let forms = forms_of(low());
    if !forms.is_empty() {
        facts.push(fact("stored as", forms.join(", ")));
    }
    if let Some(on) = plan.calibrated_on {
        let windows = number_of(on.windows, "window");
        let gradients = match on.gradient_windows {
            0 => String::new(),
            some => format!(", {some} of them with gradients"),
        };
        facts.push(fact("calibration", format!("{windows} of {} tokens{gradients}", on.seq_len)));
    }
    if let Some(search) = &plan.search {
        let plans = number_of(search.evaluations, "plan");
        let (start, end) = (number(search.start_kl), number(search.kl));
        facts.push(fact("search", format!("{plans} measured, KL from {start} to {end}")));
    }
    facts
}

/// The forms of matrices, whatever their ranks, each with how many have it.
fn forms_of<'a>(matrices: impl Iterator<Item = &'a MatrixPlan>) -> Vec<String> {
    let mut forms: Vec<(String, usize)> = Vec::new();
    for matrix in matrices {
        let mut name = matrix.form.to_string();
        if let Some(rank) = matrix.form.rank() {
            name = name.replace(&format!(" of rank {rank}"), "");
        }
        match forms.iter_mut().find(|(form, _)| *form == name) {
            Some((_, count)) => *count += 1,
            None => forms.push((name, 1)),
        }
    }
    forms.into_iter().map(|(form, count)| format!("{form} ({count})")).collect()
}

/// The most models that the top of a page speaks of.
const MODELS: usize = 4;

/// What measured models say: of the one that was planned, if it is among them, and else of those that no
/// smaller one equals.
pub(super) fn of_models(models: &[ReportModel], totals: Option<&PlanTotals>) -> Vec<Fact> {
    let dense = models.iter().find(|model| model.label == DENSE);
    let planned = |model: &&ReportModel| {
        totals.is_some_and(|totals| {
            (model.parameters, model.bytes) == (totals.parameters_after, totals.bytes_after)
        })
    };
    let others = || models.iter().filter(|model| model.label != DENSE);
    let shown: Vec<&ReportModel> = match others().find(planned) {
        Some(model) => vec![model],
        None => frontier(others().collect()),
    };
    let label = |what: &str, model: &ReportModel| match shown.len() {
        1 => what.to_string(),
        _ => format!("{what}: {}", model.label),
    };
    let mut facts = Vec::new();
    for model in &shown {
        if totals.is_none() {
            let before = dense.map(|dense| dense.bytes as f64);
            let (what, after) = (label("bytes", model), model.bytes as f64);
            facts.push(Fact::change(Topic::Size, what, before, after, FactUnit::Bytes));
        }
        // Of several models one figure each is enough.
        let is_one_of_many = shown.len() > 1;
        let texts = if is_one_of_many { 1 } else { usize::MAX };
        let is_told = !(is_one_of_many && model.divergences.values().any(Value::is_number));
        let perplexities = model.perplexities.iter().take(texts).filter(|_| is_told);
        for (text, value) in perplexities {
            let Some(after) = value.as_f64() else { continue };
            let before = dense.and_then(|dense| dense.perplexities.get(text)?.as_f64());
            let what = label(&format!("perplexity on {text}"), model);
            facts.push(Fact::change(Topic::Perplexity, what, before, after, FactUnit::Number));
        }
        for (text, value) in model.divergences.iter().take(texts) {
            let Some(kl) = value.as_f64() else { continue };
            let what = label(&format!("KL divergence from the dense model on {text}"), model);
            facts.push(Fact::change(Topic::Divergence, what, None, kl, FactUnit::Number));
        }
    }
    if shown.len() > 1 {
        let text = format!("{}, of which no smaller one is as good as these", models.len());
        facts.push(Fact::text(Topic::Work, "models measured", text));
    }
    facts
}

/// The label of the dense model.
const DENSE: &str = "dense";

/// The models that no smaller one equals, by the first text and by the divergence if it was measured; a
/// few of them if there are many, the smallest and the largest included.
fn frontier(mut models: Vec<&ReportModel>) -> Vec<&ReportModel> {
    let loss = |model: &ReportModel| {
        let values =
            if model.divergences.is_empty() { &model.perplexities } else { &model.divergences };
        values.values().next().and_then(Value::as_f64).unwrap_or(f64::INFINITY)
    };
    models.sort_by(|one, two| one.bytes.cmp(&two.bytes).then(loss(one).total_cmp(&loss(two))));
    let mut least = f64::INFINITY;
    models.retain(|model| {
        let is_better = loss(model) < least;
        least = least.min(loss(model));
        is_better
    });
    places(models.len(), MODELS).into_iter().map(|place| models[place]).collect()
}

/// What a run says, from the lines of its metrics.
pub(super) fn of_run(label: &str, lines: &[Value]) -> Vec<Fact> {
    let mut facts = Vec::new();
    let scores: Vec<&Value> = lines
        .iter()
        .filter(|line| line["perplexity"].is_number() || line["accuracy"].is_number())
        .collect();
    // What the run wrote is the model that scored best.
    let best = scores.iter().rev().find(|line| line["best"] == true).or(scores.last());
    if let Some(best) = best {
        let first = scores.iter().find(|line| line["step"] == 0);
        for (name, what, topic, unit) in [
            (
                "perplexity",
                "perplexity on the evaluation text",
                Topic::Perplexity,
                FactUnit::Number,
            ),
            (
                "watched_perplexity",
                "perplexity on the watched text",
                Topic::Perplexity,
                FactUnit::Number,
            ),
            ("accuracy", "accuracy on the task", Topic::Accuracy, FactUnit::Share),
        ] {
            if let Some(after) = best[name].as_f64() {
                let before = first.and_then(|first| first[name].as_f64());
                let what = format!("{what}, tuned in {label}");
                facts.push(Fact::change(topic, what, before, after, unit));
            }
        }
    }
    let mut speeds: Vec<f64> =
        lines.iter().filter_map(|line| line["tokens_per_second"].as_f64()).collect();
    speeds.sort_by(f64::total_cmp);
    if let Some(median) = speeds.get(speeds.len() / 2) {
        let what = format!("tokens per second, tuning in {label}");
        // How fast the model itself is, training does not tell.
        facts.push(Fact::change(Topic::Speed, what, None, *median, FactUnit::Number).expected());
    }
    facts
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn model(label: &str, bytes: u64, perplexity: f64) -> ReportModel {
        let perplexities: Map<String, Value> =
            [("t.txt".to_string(), json!(perplexity))].into_iter().collect();
        let divergences = Map::new();
        ReportModel {
            label: label.into(),
            series: None,
            perplexities,
            divergences,
            parameters: bytes / 4,
            bytes,
        }
    }

    fn rows(groups: &Value, question: &str) -> Vec<Value> {
        let groups = groups.as_array().unwrap();
        let group = groups.iter().find(|group| group["question"] == question);
        group.map_or(Vec::new(), |group| group["rows"].as_array().unwrap().clone())
    }

    #[test]
    fn what_was_not_measured_is_said_with_how_to_and_nothing_is_invented() {
        let missing =
            [(Topic::Perplexity, "measure it".to_string()), (Topic::Speed, "time it".to_string())];
        assert_eq!(opening(&[], &missing), None, "there is nothing to open with");
        let expected = Fact::text(Topic::Speed, "one token at a time", "1.1x").expected();
        let measured =
            Fact::change(Topic::Perplexity, "perplexity", Some(20.0), 21.0, FactUnit::Number);
        let groups = opening(&[expected, measured], &missing).unwrap();
        let good = json!({ "what": "perplexity", "before": 20.0, "after": 21.0, "unit": "number" });
        assert_eq!(rows(&groups, "How good?"), [good]);
        assert_eq!(
            rows(&groups, "How fast?"),
            [
                json!({ "what": "one token at a time", "text": "1.1x" }),
                json!({ "what": "tokens per second", "lack": "not measured", "missing": "time it" }),
            ]
        );
        assert_eq!(rows(&groups, "How big?"), [] as [Value; 0]);
    }

    #[test]
    fn of_many_models_those_that_no_smaller_one_equals_are_told() {
        let models = [
            model("dense", 1000, 10.0),
            model("a", 400, 30.0),
            model("worse and larger", 500, 31.0),
            model("b", 600, 12.0),
        ];
        let facts = of_models(&models, None);
        let perplexity = |label: &str, after: f64| {
            let what = format!("perplexity on t.txt: {label}");
            Fact::change(Topic::Perplexity, what, Some(10.0), after, FactUnit::Number)
        };
        assert!(facts.contains(&perplexity("a", 30.0)) && facts.contains(&perplexity("b", 12.0)));
        assert!(!facts.iter().any(|fact| fact.what.contains("worse")), "{facts:?}");
        let totals =
            PlanTotals { parameters_after: 150, bytes_after: 600, ..PlanTotals::default() };
        let facts = of_models(&models, Some(&totals));
        let only = Fact::change(
            Topic::Perplexity,
            "perplexity on t.txt",
            Some(10.0),
            12.0,
            FactUnit::Number,
        );
        assert_eq!(facts, [only]);
    }

    #[test]
    fn a_run_is_told_by_its_best_score_and_its_median_speed() {
        let lines = [
            json!({ "step": 0, "perplexity": 50.0, "best": true }),
            json!({ "step": 1, "loss": 2.0, "tokens_per_second": 10.0 }),
            json!({ "step": 2, "loss": 2.0, "tokens_per_second": 30.0 }),
            json!({ "step": 2, "perplexity": 40.0, "watched_perplexity": 9.0, "best": true }),
            json!({ "step": 3, "loss": 2.0, "tokens_per_second": 20.0 }),
            json!({ "step": 3, "perplexity": 45.0, "best": false }),
        ];
        let facts = of_run("run", &lines);
        let change = |topic: Topic, what: &str, before: Option<f64>, after: f64| {
            Fact::change(topic, what, before, after, FactUnit::Number)
        };
        let evaluated = "perplexity on the evaluation text, tuned in run";
        let watched = "perplexity on the watched text, tuned in run";
        assert_eq!(
            facts,
            [
                change(Topic::Perplexity, evaluated, Some(50.0), 40.0),
                change(Topic::Perplexity, watched, None, 9.0),
                change(Topic::Speed, "tokens per second, tuning in run", None, 20.0).expected(),
            ]
        );
        assert!(of_run("run", &[]).is_empty());
    }
}
