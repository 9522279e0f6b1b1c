//! One step of factors towards what the dense model predicts.

use anyhow::Result;
use burn::tensor::FloatDType;
use welore_burn::calibrate::Calibration;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::{CompressReport, Compressor};
use welore_burn::distill::{DistillOptions, Distilled, distill};
use welore_burn::files::OutputDir;
use welore_burn::model::load_model;
use welore_burn::plan::RankPlan;

use super::compressing::load_for_blocks;
use crate::devices::Compute;
use crate::terminal::Bar;

/// Takes the step with what a compressor has written, before it is committed, and writes the result in
/// its place. The report of the compressor gets the errors of after the step.
pub fn take_step(
    (compressor, plan): (&Compressor<'_>, &RankPlan),
    checkpoint: &Checkpoint,
    output: &OutputDir,
    calibration: &Calibration,
    options: &DistillOptions,
    compute: &Compute,
    report: &mut CompressReport,
) -> Result<Distilled> {
    let mut bar = Bar::default();
    let model = load_for_blocks(output.path(), compute, &mut bar)?;
    let dense = load_model(checkpoint.dir(), &compute.device, FloatDType::F32, &mut bar)?.model;
    let found = distill(&model, &dense, plan, calibration, options, &mut bar)?;
    // The files of the compressed model are replaced.
    drop((model, dense));
    found.write(compressor, checkpoint, output, report, &mut bar)?;
    bar.finish();
    Ok(found)
}
