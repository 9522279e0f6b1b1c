//! `calibrate`: inputs and gradients of a model's matrices on a text.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use welore_burn::calibrate::preview_calibration;
use welore_burn::files::check_staged;
use welore_burn::model::open_model;

use crate::args::{CalibrateArgs, Typed};
use crate::devices::Compute;
use crate::shared::artifacts::check_artifact;
use crate::shared::calibrating::{CalibrationWork, about_text, check_amount, options};
use crate::shared::inputs::check_apart;
use crate::{format, memory, models, output};

/// Runs the command.
pub fn run(args: CalibrateArgs, typed: &Typed) -> Result<()> {
    check_amount(&args.amount, typed)?;
    memory::keep_pages();
    let started = Instant::now();
    check_artifact(Some(&args.output))?;
    check_staged(&args.output)?;
    check_apart(Some(&args.output), [args.model.as_path(), args.text.as_path()])?;
    let compute = Compute::choose(args.compute.choice())?;
    let model = models::directory_of(&args.model)?;
    let opened = open_model(&model, &compute.device.clone().autodiff())?;
    let work = CalibrationWork::new(opened, &args.text)?;
    if args.dry_run {
        return preview(&args, &work, &compute);
    }
    let summary = work.run(&args.amount, &compute, &args.output)?;
    let seconds = started.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(&args.output).map_or(0, |file| file.len());
    if args.json {
        return output::print_json(&json!({
            "output": args.output.display().to_string(),
            "matrices": summary.matrices,
            "windows": summary.windows,
            "gradient_windows": summary.gradient_windows,
            "seq_len": summary.seq_len,
            "bytes": bytes,
            "seconds": seconds,
        }));
    }
    say!(
        "measured {} on {} of {} tokens, gradients on {} of the windows",
        format::matrices(summary.matrices),
        format::number_of(summary.windows, "window"),
        summary.seq_len,
        summary.gradient_windows
    );
    let time = format::time(seconds);
    say!("wrote {} ({}) in {time}", args.output.display(), format::bytes(bytes));
    Ok(())
}

/// Shows what would be measured.
fn preview(args: &CalibrateArgs, work: &CalibrationWork<'_>, compute: &Compute) -> Result<()> {
    let (model, tokens) = (work.opened.skeleton(), &work.tokens);
    let summary = preview_calibration(model, tokens, &options(&args.amount, compute.at_once()));
    let summary = about_text(summary, work.text)?;
    if args.json {
        return output::print_json(&json!({
            "dry_run": true,
            "output": args.output.display().to_string(),
            "matrices": summary.matrices,
            "windows": summary.windows,
            "gradient_windows": summary.gradient_windows,
            "seq_len": summary.seq_len,
            "tokens": tokens.len(),
        }));
    }
    say!(
        "would measure {} on {} of {} tokens, out of {} tokens in total, and \
         gradients on {} of the windows",
        format::matrices(summary.matrices),
        format::number_of(summary.windows, "window"),
        summary.seq_len,
        tokens.len(),
        summary.gradient_windows
    );
    Ok(())
}
