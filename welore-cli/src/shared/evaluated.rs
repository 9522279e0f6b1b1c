//! What `eval --json` printed, as lines at the top of a page.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use welore_burn::plan::PlanTotals;
use welore_burn::report::{Fact, FactUnit, Topic};

use super::artifacts::read_artifact;
use super::labels;
use crate::failure::WrongInput;
use crate::format;

/// What was measured of a model, on a text or a task.
#[derive(Debug)]
pub struct Evaluation {
    /// The model, without the directories that it is in.
    model: String,
    parameters: Option<f64>,
    bytes: Option<f64>,
    scores: Vec<Score>,
}

#[derive(Debug)]
struct Score {
    topic: Topic,
    /// The score, and what it was measured on: scores that agree in it can be compared.
    what: String,
    unit: FactUnit,
    value: f64,
    /// That of the dense model, if it was measured too.
    dense: Option<f64>,
}

/// What a file says that `eval --json` printed: one for every text.
pub fn read_evaluations(path: &Path) -> Result<Vec<Evaluation>> {
    let value: Option<Value> = serde_json::from_str(&read_artifact(path)?).ok();
    let found: Vec<Evaluation> =
        value.iter().flat_map(parts_of).filter_map(|part| evaluation(&part)).collect();
    if found.is_empty() {
        let message = format!("{}: not the output of `eval --json`", path.display());
        let hint = "`welore-cli eval --json ... > FILE` writes one";
        return Err(WrongInput::with_hint(message, hint).into());
    }
    Ok(found)
}

/// What they say. The dense model is the one with as many parameters as there were before, if there is
/// a plan.
pub fn facts_of(evaluations: &[Evaluation], totals: Option<&PlanTotals>) -> Vec<Fact> {
    let is_dense = |evaluation: &&Evaluation| {
        totals.is_some_and(|totals| {
            let [before, after] =
                [totals.parameters_before, totals.parameters_after].map(|count| count as f64);
            before != after && evaluation.parameters == Some(before)
        })
    };
    let dense: Vec<&Evaluation> = evaluations.iter().filter(is_dense).collect();
    let mut others: Vec<&Evaluation> =
        evaluations.iter().filter(|evaluation| !is_dense(evaluation)).collect();
    if others.is_empty() {
        others = evaluations.iter().collect();
    }
    let is_alone = others.iter().all(|evaluation| evaluation.model == others[0].model);
    let label = |what: &str, evaluation: &Evaluation| match is_alone {
        true => what.to_string(),
        false => format!("{what}: {}", evaluation.model),
    };
    let mut facts: Vec<Fact> = Vec::new();
    for evaluation in others {
        let mut add = |fact: Fact| {
            if !facts.contains(&fact) {
                facts.push(fact);
            }
        };
        if totals.is_none() {
            let sizes = [
                ("parameters", evaluation.parameters, FactUnit::Count),
                ("bytes", evaluation.bytes, FactUnit::Bytes),
            ];
            for (what, size, unit) in sizes {
                if let Some(size) = size {
                    add(Fact::change(Topic::Size, label(what, evaluation), None, size, unit));
                }
            }
        }
        for score in &evaluation.scores {
            let mut measured = dense.iter().flat_map(|dense| &dense.scores);
            let before = measured.find(|other| other.what == score.what).map(|other| other.value);
            let what = label(&score.what, evaluation);
            let before = before.or(score.dense);
            add(Fact::change(score.topic, what, before, score.value, score.unit));
        }
    }
    facts
}

/// Each text of an evaluation with what is said of all of them.
fn parts_of(value: &Value) -> Vec<Value> {
    match value["texts"].as_array() {
        Some(texts) if texts.iter().all(Value::is_object) => {
            texts.iter().map(|text| with_fields(value, text)).collect()
        }
        _ => vec![value.clone()],
    }
}

fn with_fields(all: &Value, text: &Value) -> Value {
    let mut part = all.clone();
    if let (Value::Object(part), Value::Object(text)) = (&mut part, text) {
        part.extend(text.clone());
    }
    part
}

/// `None` if it holds no score.
fn evaluation(part: &Value) -> Option<Evaluation> {
    let on = subject_of(part);
    let score = |topic: Topic, what: String, unit: FactUnit, value: &Value, dense: Option<f64>| {
        Some(Score { topic, what, unit, value: number_in(value)?, dense })
    };
    let on_it = |name: &str| format!("{name} on {on}");
    let dense = part["against"]["perplexity"].as_f64();
    let kl = &part["divergence"]["kl"];
    let share =
        |name: &str| score(Topic::Accuracy, on_it(name), FactUnit::Share, &part[name], None);
    let device = part["device"].as_str().unwrap_or("an unnamed device");
    let speed = format!("tokens per second, reading {on} on {device}");
    let scores = [
        score(Topic::Perplexity, on_it("perplexity"), FactUnit::Number, &part["perplexity"], dense),
        score(
            Topic::Divergence,
            on_it("KL divergence from the dense model"),
            FactUnit::Number,
            kl,
            None,
        ),
        share("accuracy"),
        share("acc"),
        share("acc_norm"),
    ];
    let mut scores: Vec<Score> = scores.into_iter().flatten().collect();
    if scores.is_empty() {
        return None;
    }
    scores.extend(score(Topic::Speed, speed, FactUnit::Number, &part["tokens_per_second"], None));
    let model = labels::of_model(part["model"].as_str().unwrap_or("the model"));
    let size = |name: &str| part[name].as_f64();
    Some(Evaluation { model, parameters: size("parameters"), bytes: size("bytes"), scores })
}

/// The text or the task, and how much of it.
fn subject_of(part: &Value) -> String {
    let count = |name: &str| part[name].as_u64().and_then(|count| usize::try_from(count).ok());
    if let Some(task) = part["task"].as_str().or(part["choices"].as_str()) {
        let examples = count("examples").or(count("questions"));
        let examples = examples.map(|count| format!(", {}", format::number_of(count, "example")));
        return format!("{task}{}", examples.unwrap_or_default());
    }
    let text = Path::new(part["text"].as_str().unwrap_or("a text")).file_name();
    let mut said = text.unwrap_or_default().to_string_lossy().into_owned();
    if let (Some(windows), Some(length)) = (count("windows"), count("seq_len")) {
        said = format!("{said}, {} of {length} tokens", format::number_of(windows, "window"));
    }
    if let Some(skip) = count("skip").filter(|skip| *skip > 0) {
        let skipped = format::number_of(skip, "prediction");
        said = format!("{said} without the first {skipped} of each");
    }
    // A stride of a whole window is none.
    if let Some(stride) = count("stride").filter(|stride| count("seq_len") != Some(*stride)) {
        said = format!("{said} by a stride of {stride}");
    }
    said
}

/// A number, or that of an estimate with its standard error.
fn number_in(value: &Value) -> Option<f64> {
    value.as_f64().or(value["value"].as_f64())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn measured(model: &str, parameters: u64, perplexity: f64, text: &str) -> Evaluation {
        evaluation(&json!({
            "model": model, "parameters": parameters, "bytes": 4 * parameters, "text": text,
            "windows": 8, "seq_len": 64, "skip": 0, "stride": 64, "perplexity": perplexity,
            "device": "CPU", "tokens_per_second": 100.0,
        }))
        .unwrap()
    }

    #[test]
    fn dense_model_is_what_others_on_the_same_text_are_compared_with() {
        let totals =
            PlanTotals { parameters_before: 100, parameters_after: 80, ..PlanTotals::default() };
        let all = [
            measured("dir/dense", 100, 10.0, "dir/a.txt"),
            measured("dir/low", 80, 12.0, "dir/a.txt"),
            measured("dir/low", 80, 15.0, "dir/b.txt"),
        ];
        let facts = facts_of(&all, Some(&totals));
        let change = |text: &str, before: Option<f64>, after: f64| {
            let what = format!("perplexity on {text}, 8 windows of 64 tokens");
            Fact::change(Topic::Perplexity, what, before, after, FactUnit::Number)
        };
        assert!(facts.contains(&change("a.txt", Some(10.0), 12.0)), "{facts:?}");
        assert!(facts.contains(&change("b.txt", None, 15.0)), "{facts:?}");
        assert_eq!(facts.len(), 4, "both perplexities and both speeds: {facts:?}");
    }

    #[test]
    fn every_score_and_every_text_is_read() {
        let several = json!({
            "model": "low", "seq_len": 64, "skip": 2,
            "texts": [
                { "text": "a.txt", "perplexity": 12.0, "windows": 1,
                  "against": { "perplexity": 10.0 },
                  "divergence": { "kl": { "value": 0.1, "standard_error": 0.01 } } },
                { "text": "b.txt", "perplexity": 13.0, "windows": 2 },
            ],
        });
        let all: Vec<Evaluation> = parts_of(&several).iter().filter_map(evaluation).collect();
        let facts = facts_of(&all, None);
        let on = "a.txt, 1 window of 64 tokens without the first 2 predictions of each";
        let kl = format!("KL divergence from the dense model on {on}");
        assert_eq!(facts.len(), 3, "{facts:?}");
        assert!(facts.contains(&Fact::change(Topic::Divergence, kl, None, 0.1, FactUnit::Number)));
        let task = json!({ "model": "low", "choices": "boolq", "questions": 9,
            "acc": { "value": 0.75, "standard_error": 0.1 }, "acc_norm": { "value": 0.5 } });
        let facts = facts_of(&[evaluation(&task).unwrap()], None);
        let share = |name: &str, value: f64| {
            let what = format!("{name} on boolq, 9 examples");
            Fact::change(Topic::Accuracy, what, None, value, FactUnit::Share)
        };
        assert_eq!(facts, [share("acc", 0.75), share("acc_norm", 0.5)]);
        assert!(evaluation(&json!({ "rows": [] })).is_none());
    }
}
