//! `calibrate`: what a model's matrices see and do on a text.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use welore_burn::calibrate::{CalibrationError, CalibrationOptions, CalibrationSummary, calibrate};
use welore_burn::data::{TextTokenizer, join_documents, read_documents};
use welore_burn::llama::open_llama;

use super::{check_artifact, in_file};
use crate::args::{AmountArgs, CalibrateArgs, TooLittleArg};
use crate::devices::Compute;
use crate::terminal::Bar;
use crate::{format, memory, models};

/// Runs the command.
pub fn run(args: CalibrateArgs) -> Result<()> {
    memory::keep_pages();
    let started = Instant::now();
    check_artifact(Some(&args.output))?;
    let compute = Compute::choose(&args.compute)?;
    let model = models::directory_of(&args.model)?;
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
    say!("wrote {} ({}) in {seconds:.1} s", args.output.display(), format::bytes(bytes));
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
    let options = CalibrationOptions {
        seq_len: amount.calibration_seq_len,
        blocks: Some(amount.calibration_blocks),
        gradient_blocks: amount.gradient_blocks,
        probe_blocks: amount.probe_blocks,
        allow_deficient: amount.too_little == TooLittleArg::Shrink,
        at_once: compute.at_once(),
    };
    let context = loaded.config.max_position_embeddings;
    let done = calibrate(&loaded.model, &checkpoint, &tokens, context, &options, output, &mut bar);
    bar.finish();
    match done {
        // These are about the text.
        Err(
            error @ (CalibrationError::TooShort { .. } | CalibrationError::TooLittleText { .. }),
        ) => in_file(Err(error), text),
        other => Ok(other?),
    }
}
