//! `eval`: perplexity on a text, accuracy on a task.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use burn::module::Module;
use burn::tensor::FloatDType;
use serde_json::json;
use welore_burn::data::{Task, TaskExample, TaskKind, TextTokenizer};
use welore_burn::eval::{
    Accuracy, EvalError, Perplexity, PerplexityOptions, check_text, perplexity,
};
use welore_burn::model::{LoadedModel, open_model};
use welore_burn::named::Named;
use welore_burn::report::Measurement;

use crate::args::EvalArgs;
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::shared::artifacts::in_file;
use crate::shared::card::{MADE_BY, check_record, record};
use crate::shared::identity::{Identity, digest_of};
use crate::shared::task::Speaker;
use crate::shared::text::{TextReader, documents_of, window_of};
use crate::terminal::Bar;
use crate::{format, models, output};

/// Runs the command.
pub fn run(args: EvalArgs) -> Result<()> {
    if args.record {
        if args.model.is_dir() {
            // What holds no model holds no card either, and this says what to give instead.
            models::directory_of(&args.model)?;
        }
        check_record(&args.model)?;
    }
    match (&args.text, args.task, &args.data) {
        (_, Some(task), Some(path)) => answer_task(&args, task, path),
        (Some(text), _, _) => predict_text(&args, text),
        _ => unreachable!("clap asks for --text, or for --task with --data"),
    }
}

fn answer_task(args: &EvalArgs, kind: TaskKind, path: &Path) -> Result<()> {
    if args.windows == Some(0) {
        return Err(WrongInput::new("--windows: must be at least 1").into());
    }
    let mut examples = Task::read(kind, path)?.test;
    examples.truncate(args.windows.unwrap_or(usize::MAX));
    let compute = Compute::choose(args.compute.choice())?;
    let model = models::directory_of(&args.model)?;
    let opened = open_model(&model, &compute.device)?;
    let speaker = Speaker::new(TextTokenizer::open(&model)?, &opened.config);
    let loaded = opened.load(compute.dtype, |_| false, &mut Bar::default())?;
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
        return print_answers(kind, &identity, &loaded, &examples, &score, seconds);
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
    output::print_json(&identity.with(json!({
        "task": kind.name(),
        "accuracy": score.accuracy,
        "right": score.right(),
        "examples": examples.len(),
        "parameters": loaded.model.num_params(),
        "bytes": loaded.checkpoint.bytes(),
        "seconds": seconds,
        "answers": answers,
    })))
}

fn predict_text(args: &EvalArgs, path: &Path) -> Result<()> {
    let documents = documents_of(path)?;
    let compute = Compute::choose(args.compute.choice())?;
    let Compute { device, dtype, .. } = &compute;
    let model = models::directory_of(&args.model)?;
    let opened = open_model(&model, device)?;
    let tokens = TextReader::open(&model, &opened.config)?.tokens(&documents)?;
    let options = PerplexityOptions {
        seq_len: window_of(args.seq_len, &opened.config),
        windows: args.windows,
        at_once: compute.at_once(),
    };
    // Checked here because loading weights may take long.
    match check_text(opened.skeleton(), &tokens, &options) {
        // Only this error is about the text.
        Err(error @ EvalError::TooShort { .. }) => in_file(Err(error), path)?,
        other => other?,
    }
    let loaded = opened.load(*dtype, |_| false, &mut Bar::default())?;
    let mut bar = Bar::default();
    let started = Instant::now();
    let result = perplexity(&loaded.model, &tokens, &options, &mut bar)?;
    bar.finish();
    let seconds = started.elapsed().as_secs_f64();
    if args.record {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let of = format!(
            "{name}, {} of {} tokens",
            format::number_of(result.windows, "window"),
            options.seq_len
        );
        let of = match dtype {
            FloatDType::F32 => of,
            dtype => format!("{of}, in {dtype:?}").to_lowercase(),
        };
        let (score, value) = ("perplexity", result.perplexity);
        record(&args.model, Measurement { score, value, of: &of, made_by: MADE_BY })?;
    }
    if !args.json {
        return print_summary(&loaded, &result, options.seq_len, seconds);
    }
    let identity = Identity::of(&args.model, &model, &compute)?;
    output::print_json(&identity.with(json!({
        "text": path.display().to_string(),
        "text_digest": digest_of(&tokens),
        "perplexity": result.perplexity,
        "nll": result.nll,
        "tokens": result.tokens,
        "windows": result.windows,
        "seq_len": options.seq_len,
        "parameters": loaded.model.num_params(),
        "bytes": loaded.checkpoint.bytes(),
        "seconds": seconds,
        "tokens_per_second": speed(&result, options.seq_len, seconds),
    })))
}

/// Tokens read per second, including the first tokens of windows.
fn speed(result: &Perplexity, seq_len: usize, seconds: f64) -> f64 {
    (result.windows * seq_len) as f64 / seconds
}

fn print_summary(
    loaded: &LoadedModel,
    result: &Perplexity,
    seq_len: usize,
    seconds: f64,
) -> Result<()> {
    say!(
        "perplexity {} over {} ({} of {})",
        format::perplexity(result.perplexity),
        format::number_of(result.tokens, "token"),
        format::number_of(result.windows, "window"),
        seq_len
    );
    say!(
        "parameters {}, {} on disk, {:.0} tokens/s",
        format::count(loaded.model.num_params() as u64),
        format::bytes(loaded.checkpoint.bytes()),
        speed(result, seq_len, seconds)
    );
    Ok(())
}
