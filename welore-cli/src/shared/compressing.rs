//! Carrying out a plan.

use anyhow::Result;
use burn::tensor::FloatDType;
use welore_burn::compress::{BlockwiseOptions, Compressor};
use welore_burn::model::{Decoder, open_model};
use welore_burn::plan::RankPlan;
use welore_burn::spectrum::Norms;

use crate::devices::Compute;
use crate::terminal::Bar;

use std::path::Path;

/// The compressor for a plan, with the chosen norms and options.
pub fn compressor<'a>(
    plan: &'a RankPlan,
    norms: Norms<'a>,
    blockwise: Option<BlockwiseOptions<'a>>,
) -> Compressor<'a> {
    let compressor = Compressor::new(plan).with_norms(norms);
    match blockwise {
        Some(options) => compressor.with_blockwise(options),
        None => compressor,
    }
}

/// A model on its autodiff device in f32, which compressing block by block needs.
pub fn load_for_blocks(dir: &Path, compute: &Compute, bar: &mut Bar) -> Result<Decoder> {
    let opened = open_model(dir, &compute.device.clone().autodiff())?;
    Ok(opened.load(FloatDType::F32, |_| true, bar)?.model)
}
