//! `compress --distill`: one step of all factors, once they are made.

use anyhow::Result;
use welore_burn::calibrate::Calibration;
use welore_burn::distill::{DistillOptions, Distilled};
use welore_burn::files::OutputDir;
use welore_burn::progress::Interrupted;
use welore_burn::spectrum::Method;

use super::{Request, tell_kept};
use crate::args::CompressArgs;
use crate::shared::recipe::Recipe;

/// Whether factors take a step once they are made.
pub(super) fn distills(args: &CompressArgs, recipe: &Recipe) -> bool {
    args.distill && recipe.way.method == Method::TwoSided
}

/// How factors take a step once they are made, if they do. Checks that the calibration allows it, before anything
/// is factored.
pub(super) fn distilling(
    args: &CompressArgs,
    request: &Request,
    calibration: Option<&Calibration>,
) -> Result<Option<DistillOptions>> {
    let compute = request.compute.as_ref().filter(|_| distills(args, &request.recipe));
    let (Some(compute), Some(calibration)) = (compute, calibration) else { return Ok(None) };
    let held_back = args.distill_windows.get();
    let at_once = compute.at_once();
    let options = DistillOptions { held_back, at_once, ..DistillOptions::default() };
    options.check(calibration)?;
    Ok(Some(options))
}

/// The directory, and what comes after its matrices. Where that failed or was stopped, these are kept.
pub(super) fn or_suspended<T>(output: OutputDir, result: Result<T>) -> Result<(OutputDir, T)> {
    match result {
        Ok(result) => Ok((output, result)),
        Err(error) => {
            tell_kept(&output);
            if error.chain().any(|cause| cause.is::<Interrupted>()) {
                output.suspend();
                return Err(Interrupted.into());
            }
            Err(error)
        }
    }
}

/// Says what a step did.
pub(super) fn tell_step(step: &Distilled) -> Result<()> {
    let Distilled { length, before, .. } = step;
    let (before, after) = (before.value, step.after());
    match *length > 0.0 {
        true => say!(
            "distilled  a step of length {length} lowers the divergence on text that is held back \
             from {before:.4} to {after:.4} nats per token"
        ),
        false => say!(
            "distilled  no step lowers the divergence on text that is held back, {before:.4} nats \
             per token"
        ),
    }
    Ok(())
}
