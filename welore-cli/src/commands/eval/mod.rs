//! `eval`: perplexity on a text, how far it is from what a dense model predicts, accuracy on a task.

mod against;
mod choices;
mod text;
mod turns;

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use welore_burn::data::{Task, TaskExample, TaskKind, TextTokenizer};
use welore_burn::eval::Accuracy;
use welore_burn::forms::parameters;
use welore_burn::model::LoadedModel;
use welore_burn::named::Named;
use welore_burn::report::Measurement;

use crate::args::{EvalArgs, Typed, rule};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::shared::adapting::{load, note_adapter, open};
use crate::shared::card::{MADE_BY, check_record, record};
use crate::shared::identity::Identity;
use crate::shared::task::Speaker;
use crate::{format, models, output};

/// Runs the command.
pub fn run(args: EvalArgs, typed: &Typed) -> Result<()> {
    typed.check([rule("template", args.data.is_none(), "only with conversations in --text")])?;
    if args.record {
        if args.model.is_dir() {
            // What holds no model holds no card either, and this says what to give instead.
            models::directory_of(&args.model)?;
        }
        check_record(&args.model)?;
    }
    match &args.data {
        Some(path) => answer_questions(&args, path),
        None => text::predict(&args, typed),
    }
}

fn answer_questions(args: &EvalArgs, path: &Path) -> Result<()> {
    if args.windows == Some(0) {
        return Err(WrongInput::new("--windows: must be at least 1").into());
    }
    match (args.task, args.choices) {
        (Some(task), _) => answer_task(args, task, path),
        (None, Some(task)) => choices::choose(args, task, path),
        (None, None) => unreachable!("clap asks for --task or --choices with --data"),
    }
}

fn answer_task(args: &EvalArgs, kind: TaskKind, path: &Path) -> Result<()> {
    let mut examples = Task::read(kind, path)?.test;
    examples.truncate(args.windows.unwrap_or(usize::MAX));
    let compute = Compute::choose(args.compute.choice())?;
    let (model, opened, adapter) = open(&args.model, args.adapter.as_deref(), &compute)?;
    let speaker = Speaker::new(TextTokenizer::open(&model)?, &opened.config);
    let loaded = load(opened, compute.dtype, adapter)?;
    let started = Instant::now();
    let score = speaker.score(&loaded.model, &examples, &compute)?;
    let seconds = started.elapsed().as_secs_f64();
    if args.record {
        let of = format!("{}, {}", kind.name(), format::number_of(examples.len(), "example"));
        let score =
            Measurement { score: "accuracy", value: score.accuracy, of: &of, made_by: MADE_BY };
        record(&args.model, score)?;
    }
    if args.json {
        let identity = Identity::of(&args.model, &model, &compute)?;
        return print_answers(args, kind, &identity, &loaded, &examples, &score, seconds);
    }
    say!(
        "accuracy {} on {}: {} of {}",
        format::percent(score.accuracy),
        kind.name(),
        score.right(),
        format::number_of(examples.len(), "example")
    );
    say!("{:.1} examples/s", examples.len() as f64 / seconds);
    Ok(())
}

fn print_answers(
    args: &EvalArgs,
    kind: TaskKind,
    identity: &Identity,
    loaded: &LoadedModel,
    examples: &[TaskExample],
    score: &Accuracy,
    seconds: f64,
) -> Result<()> {
    let answers: Vec<_> = examples
        .iter()
        .zip(&score.answers)
        .map(|(example, (answer, right))| {
            json!({ "expected": example.response, "answer": answer, "right": right })
        })
        .collect();
    let mut all = json!({
        "task": kind.name(),
        "accuracy": score.accuracy,
        "right": score.right(),
        "examples": examples.len(),
        "parameters": parameters(&loaded.model),
        "bytes": models::bytes_on_disk(&args.model, &loaded.checkpoint),
        "seconds": seconds,
        "answers": answers,
    });
    note_adapter(args.adapter.as_deref(), &mut all);
    output::print_json(&identity.with(all))
}
