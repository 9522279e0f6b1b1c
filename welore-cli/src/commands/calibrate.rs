//! `calibrate`: inputs and gradients of a model's matrices on texts.

use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::calibrate::{CalibrationSummary, GradientLabels};
use welore_burn::files::check_staged;

use crate::args::{CalibrateArgs, TextArg, Typed, rule};
use crate::devices::Compute;
use crate::models::Artifact;
use crate::shared::artifacts::{check_artifact, claim};
use crate::shared::beginning::Beginning;
use crate::shared::calibrating::{Calibrated, CalibrationWork, check_amount};
use crate::shared::effects::{of_amount, of_bos};
use crate::shared::opening::open_known;
use crate::shared::text::NO_CONVERSATIONS;
use crate::{format, memory, models, output};

/// Runs the command.
pub fn run(args: CalibrateArgs, typed: &Typed) -> Result<()> {
    typed.check(of_amount(&args.text, &args.amount).chain([of_bos(&args.text)]))?;
    check_amount(&args.text, &args.amount, typed)?;
    memory::keep_pages();
    let started = Instant::now();
    let texts = args.text.iter().filter_map(TextArg::file);
    let inputs = [args.model.as_path()].into_iter().chain(texts).chain(args.template.file());
    check_artifact(Some(&args.output), Artifact::Calibration, inputs)?;
    check_staged(&args.output)?;
    let _claim = claim(Some(args.output.as_path()).filter(|_| !args.dry_run))?;
    let compute = Compute::choose(args.compute.choice())?;
    let model = models::directory_of(&args.model)?;
    let opened = open_known(&model, &compute.device.clone().autodiff())?;
    let template = args.template.file();
    let work = CalibrationWork::new(opened, &args.text, &args.amount, template, &compute)?;
    typed.check([rule("template", work.talks(), NO_CONVERSATIONS)])?;
    let work = work.resumable();
    if args.dry_run {
        work.check(&args.output)?;
        return preview(&args, work, &compute);
    }
    let beginning = work.beginning();
    let Calibrated { summary, texts } = work.run(&compute, &args.output)?;
    let seconds = started.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(&args.output).map_or(0, |file| file.len());
    if args.json {
        let all = json!({
            "output": args.output.display().to_string(),
            "matrices": summary.matrices,
            "windows": summary.windows,
            "gradient_windows": summary.gradient_windows,
            "gradient_labels": labels(&args, &summary),
            "seq_len": summary.seq_len,
            "mixed_experts": summary.mixed_experts,
            "texts": texts,
            "bytes": bytes,
            "seconds": seconds,
        });
        return output::print_json(&with_beginning(all, beginning));
    }
    say!(
        "measured {} on {} of {} tokens{}, gradients on {} of the windows{}",
        format::matrices(summary.matrices),
        format::number_of(summary.windows, "window"),
        summary.seq_len,
        in_words(beginning),
        summary.gradient_windows,
        of_labels_in_words(&args, &summary)
    );
    if summary.mixed_experts > 0 {
        say!(
            "{} saw few tokens: their inputs are measured on tokens of other experts as well",
            format::number_of(summary.mixed_experts, "expert")
        );
    }
    let time = format::time(seconds);
    say!("wrote {} ({}) in {time}", args.output.display(), format::bytes(bytes));
    Ok(())
}

/// Which labels the gradients are for, if there are gradients.
fn labels(args: &CalibrateArgs, summary: &CalibrationSummary) -> Option<GradientLabels> {
    (summary.gradient_windows > 0).then_some(args.amount.gradient_labels)
}

/// The same as the end of a sentence, unless they are the usual ones.
fn of_labels_in_words(args: &CalibrateArgs, summary: &CalibrationSummary) -> &'static str {
    match labels(args, summary) {
        Some(GradientLabels::Model) => ", for labels that the model draws",
        _ => "",
    }
}

/// An object that also says how the texts of files begin, if there are any.
fn with_beginning(object: Value, beginning: Option<Beginning>) -> Value {
    match beginning {
        Some(beginning) => beginning.with(object),
        None => object,
    }
}

/// The same in words.
fn in_words(beginning: Option<Beginning>) -> String {
    beginning.map(|beginning| beginning.clause_with_reason()).unwrap_or_default()
}

/// Shows what would be measured, and what that is expected to take.
fn preview(args: &CalibrateArgs, work: CalibrationWork<'_>, compute: &Compute) -> Result<()> {
    let (summary, tokens, own) = (work.preview()?, work.tokens(), work.own().copied());
    let beginning = work.beginning();
    if args.json {
        let expected = work.forecast(compute)?;
        let all = json!({
            "dry_run": true,
            "output": args.output.display().to_string(),
            "matrices": summary.matrices,
            "windows": summary.windows,
            "gradient_windows": summary.gradient_windows,
            "gradient_labels": labels(args, &summary),
            "seq_len": summary.seq_len,
            "tokens": tokens,
            "self": own.map(|own| json!({ "samples": own.samples, "length": own.length })),
            "expected_seconds": expected.seconds,
            "expected_peak_bytes": expected.peak_bytes,
            "expected_peak_of": expected.peak_of(),
            "tried": expected.tried,
        });
        return output::print_json(&with_beginning(all, beginning));
    }
    if let Some(own) = own {
        let samples = format::number_of(own.samples, "sample");
        say!("would let the model write {samples} of {} tokens", own.length);
    }
    say!(
        "would measure {} on {} of {} tokens{}, out of {} tokens in total, and \
         gradients on {} of the windows{}",
        format::matrices(summary.matrices),
        format::number_of(summary.windows, "window"),
        summary.seq_len,
        in_words(beginning),
        tokens,
        summary.gradient_windows,
        of_labels_in_words(args, &summary)
    );
    say!("{}", work.forecast(compute)?.line());
    Ok(())
}
