//! Accuracy on questions with choices, by the log-likelihood of each choice.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::data::{ChoiceTask, TextTokenizer};
use welore_burn::eval::{
    ChoiceAnswer, ChoiceScores, ChoiceTokens, Estimate, check_choices, score_choices,
};
use welore_burn::forms::parameters;
use welore_burn::model::LoadedModel;
use welore_burn::named::Named;
use welore_burn::report::Measurement;

use crate::args::EvalArgs;
use crate::devices::Compute;
use crate::shared::card::{MADE_BY, record};
use crate::shared::identity::Identity;
use crate::shared::opening::open_known;
use crate::terminal::Bar;
use crate::{format, models, output};

/// Texts have the special tokens that the tokenizer adds, as in lm-eval unless it is told otherwise.
const SPECIAL_TOKENS: bool = true;

/// Answers the questions in a file.
pub fn choose(args: &EvalArgs, task: ChoiceTask, path: &Path) -> Result<()> {
    let mut questions = task.read(path)?;
    questions.truncate(args.windows.unwrap_or(usize::MAX));
    let compute = Compute::choose(args.compute.choice())?;
    let model = models::directory_to_run(&args.model, &compute)?;
    let opened = open_known(&model, &compute.device)?;
    let tokenizer = TextTokenizer::open(&model)?;
    let tokens = questions
        .iter()
        .map(|question| ChoiceTokens::of(question, &tokenizer, SPECIAL_TOKENS))
        .collect::<Result<Vec<_>, _>>()?;
    // Checked here because loading weights may take long.
    check_choices(opened.skeleton(), &tokens)?;
    let loaded = opened.load(compute.dtype, |_| false, &mut Bar::default())?;
    let (started, mut bar) = (Instant::now(), Bar::default());
    let scores = score_choices(&loaded.model, &tokens, compute.at_once(), &mut bar)?;
    bar.finish();
    let seconds = started.elapsed().as_secs_f64();
    if args.record {
        record_both(args, task, &scores)?;
    }
    if args.json {
        let identity = Identity::of(&args.model, &model, &compute)?;
        let found = as_json(args, task, &loaded, &scores, seconds);
        return output::print_json(&identity.with(found));
    }
    print_summary(task, &scores, seconds)
}

/// Adds both accuracies to the card of the model.
fn record_both(args: &EvalArgs, task: ChoiceTask, scores: &ChoiceScores) -> Result<()> {
    let asked = format::number_of(scores.answers.len(), "question");
    let of = format!("{}, {asked}, by log-likelihood", task.name());
    for (score, found) in [("acc", scores.acc), ("acc_norm", scores.acc_norm)] {
        record(&args.model, Measurement { score, value: found.value, of: &of, made_by: MADE_BY })?;
    }
    Ok(())
}

fn as_json(
    args: &EvalArgs,
    task: ChoiceTask,
    loaded: &LoadedModel,
    scores: &ChoiceScores,
    seconds: f64,
) -> Value {
    let as_object = |answer: &ChoiceAnswer| {
        json!({
            "expected": answer.right,
            "answer": answer.most_likely,
            "answer_norm": answer.most_likely_norm,
            "right": answer.most_likely == answer.right,
            "log_likelihoods": answer.log_likelihoods,
        })
    };
    json!({
        "choices": task.name(),
        "acc": scores.acc,
        "acc_norm": scores.acc_norm,
        "right": scores.right(),
        "questions": scores.answers.len(),
        "truncated": scores.truncated,
        "special_tokens": SPECIAL_TOKENS,
        "parameters": parameters(&loaded.model),
        "bytes": models::bytes_on_disk(&args.model, &loaded.checkpoint),
        "seconds": seconds,
        "answers": scores.answers.iter().map(as_object).collect::<Vec<_>>(),
    })
}

fn print_summary(task: ChoiceTask, scores: &ChoiceScores, seconds: f64) -> Result<()> {
    let count = scores.answers.len();
    say!(
        "acc {} on {}: {} of {}",
        with_error(scores.acc),
        task.name(),
        scores.right(),
        format::number_of(count, "question")
    );
    say!("acc_norm {}, by log-likelihood for each character", with_error(scores.acc_norm));
    if scores.truncated > 0 {
        let cut = format::number_of(scores.truncated, "question");
        note!("{cut} lost the beginning, longer than the model's context");
    }
    say!("{:.1} questions/s", count as f64 / seconds);
    Ok(())
}

/// A share and its standard error, which a single question does not have.
fn with_error(share: Estimate) -> String {
    match share.standard_error.is_finite() {
        true => {
            format!("{} ± {}", format::percent(share.value), format::percent(share.standard_error))
        }
        false => format::percent(share.value),
    }
}
