//! `calibrate`: what a model's matrices see and do on a text.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use welore_burn::calibrate::{
    CalibrationError, CalibrationOptions, CalibrationSummary, calibrate, check_text,
};
use welore_burn::checkpoint::FactorNames;
use welore_burn::data::{TextTokenizer, join_documents, read_documents};
use welore_burn::llama::open_llama;
use welore_burn::spectrum::Selection;

use super::{check_artifact, in_file};
use crate::args::{AmountArgs, CalibrateArgs, TooLittleArg};
use crate::devices::{Compute, host};
use crate::terminal::Bar;
use crate::{format, memory, models};

/// Runs the command.
pub fn run(args: CalibrateArgs) -> Result<()> {
    memory::keep_pages();
    let started = Instant::now();
    check_artifact(Some(&args.output))?;
    let compute = Compute::choose(&args.compute)?;
    let model = models::directory_of(&args.model)?;
    if args.dry_run {
        return preview(&args, &model, &compute);
    }
    let summary = calibrate_on(&model, &args.text, &args.amount, &compute, &args.output)?;
    let seconds = started.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(&args.output).map_or(0, |file| file.len());
    if args.json {
        return format::print_json(&json!({
            "output": args.output.display().to_string(),
            "matrices": summary.matrices,
            "blocks": summary.blocks,
            "gradient_blocks": summary.gradient_blocks,
            "seq_len": summary.seq_len,
            "bytes": bytes,
            "seconds": seconds,
        }));
    }
    say!(
        "{} matrices on {} blocks of {} tokens, gradients of {}",
        summary.matrices,
        summary.blocks,
        summary.seq_len,
        summary.gradient_blocks
    );
    let time = format::time(seconds);
    say!("wrote {} ({}) in {time}", args.output.display(), format::bytes(bytes));
    Ok(())
}

/// Calibrates a model on a text.
pub(super) fn calibrate_on(
    model: &Path,
    text: &Path,
    amount: &AmountArgs,
    compute: &Compute,
    output: &Path,
) -> Result<CalibrationSummary> {
    let documents = read_documents(text)?;
    let tokenizer = TextTokenizer::open(model)?;
    let opened = open_llama(model, &compute.device.clone().autodiff())?;
    let end = opened.config.eos_token_ids.first().copied();
    let tokens = join_documents(&documents, &tokenizer, end)?;
    let checkpoint = super::open_model(model)?;
    let mut bar = Bar::default();
    let loaded = opened.load(compute.dtype, |_| false, &mut bar)?;
    let options = options(amount, compute);
    let context = loaded.config.max_position_embeddings;
    let done = calibrate(&loaded.model, &checkpoint, &tokens, context, &options, output, &mut bar);
    bar.finish();
    about_text(done, text)
}

fn options(amount: &AmountArgs, compute: &Compute) -> CalibrationOptions {
    CalibrationOptions {
        seq_len: amount.calibration_seq_len,
        blocks: Some(amount.calibration_blocks),
        gradient_blocks: amount.gradient_blocks,
        probe_blocks: amount.probe_blocks,
        allow_deficient: amount.too_little == TooLittleArg::Shrink,
        at_once: compute.at_once(),
    }
}

/// Names the text in errors that are about it.
fn about_text<T>(result: Result<T, CalibrationError>, text: &Path) -> Result<T> {
    match result {
        Err(
            error @ (CalibrationError::TooShort { .. } | CalibrationError::TooLittleText { .. }),
        ) => in_file(Err(error), text),
        other => Ok(other?),
    }
}

/// Tells what would be measured.
fn preview(args: &CalibrateArgs, model: &Path, compute: &Compute) -> Result<()> {
    let opened = open_llama(model, &host())?;
    if let Some(name) = opened.checkpoint.names().find_map(FactorNames::matrix_of_v) {
        return Err(CalibrationError::Factored { name: name.into() }.into());
    }
    let end = opened.config.eos_token_ids.first().copied();
    let tokenizer = TextTokenizer::open(model)?;
    let tokens = join_documents(&read_documents(&args.text)?, &tokenizer, end)?;
    let options = options(&args.amount, compute);
    let context = opened.config.max_position_embeddings;
    about_text(check_text(opened.skeleton(), &tokens, context, &options), &args.text)?;
    let seq_len = options.seq_len;
    let blocks = (tokens.len() / seq_len).min(args.amount.calibration_blocks);
    let gradient_blocks = options.gradient_blocks.min(blocks);
    let projections = Selection::projections();
    let names = opened.checkpoint.names().filter_map(|tensor| tensor.strip_suffix(".weight"));
    let matrices: Vec<&str> = names.filter(|name| projections.matches(name)).collect();
    let mut largest = (0, "");
    for name in &matrices {
        let [_, inputs] = opened.checkpoint.matrix_shape(&format!("{name}.weight"))?;
        largest = largest.max((inputs, *name));
    }
    if blocks * seq_len < largest.0 && !options.allow_deficient {
        let (size, name) = (largest.0, largest.1.into());
        let error = CalibrationError::TooLittleText { tokens: blocks * seq_len, name, size };
        return about_text(Err(error), &args.text);
    }
    if args.json {
        return format::print_json(&json!({
            "dry_run": true,
            "output": args.output.display().to_string(),
            "matrices": matrices.len(),
            "blocks": blocks,
            "gradient_blocks": gradient_blocks,
            "seq_len": seq_len,
            "tokens": tokens.len(),
        }));
    }
    say!(
        "would measure {} matrices on {blocks} blocks of {seq_len} of {} tokens, gradients of \
         {gradient_blocks}",
        matrices.len(),
        tokens.len()
    );
    Ok(())
}
