//! Models from memory to directories.

use std::path::Path;

use anyhow::{Context, Result};
use safetensors::Dtype;
use welore_burn::checkpoint::{
    Checkpoint, DEFAULT_SHARD_BYTES, OutputDir, PLAN_FILE, ShardWriter, copy_companions,
    save_module, write_file,
};
use welore_burn::llama::Llama;
use welore_burn::plan::RankPlan;

use super::card::write_tuned_card;
use crate::terminal::Bar;

/// The type that a checkpoint's first tensor has.
pub fn first_dtype(checkpoint: &Checkpoint) -> Result<Dtype> {
    let first = checkpoint.names().next().and_then(|name| checkpoint.meta(name));
    Ok(first.context("the model has no tensors")?.dtype)
}

/// Writes a model in one type, with the companions of the directory that it came from and the
/// plan that it was compressed by, if there is one. Whoever made `output` commits it.
pub fn write_llama(
    model: &Llama,
    dtype: Dtype,
    from: &Path,
    plan: Option<&RankPlan>,
    output: &OutputDir,
    shard_bytes: u64,
) -> Result<()> {
    let mut writer = ShardWriter::new(output.path(), shard_bytes);
    save_module(model, dtype, &mut writer, &mut Bar::default())?;
    writer.finish()?;
    copy_companions(from, output.path())?;
    if let Some(plan) = plan {
        write_file(output.path().join(PLAN_FILE), plan.to_json().as_bytes())?;
    }
    Ok(())
}

/// The same into a new directory, which appears whole. `compressed` is the plan of a compressed
/// model and, for its card, what was trained.
pub fn write_new_llama(
    model: &Llama,
    dtype: Dtype,
    from: &Path,
    compressed: Option<(&RankPlan, &str)>,
    target: &Path,
) -> Result<()> {
    let output = OutputDir::create(target, false)?;
    let plan = compressed.map(|(plan, _)| plan);
    write_llama(model, dtype, from, plan, &output, DEFAULT_SHARD_BYTES)?;
    if let Some((plan, how)) = compressed {
        write_tuned_card(output.path(), from, plan, how)?;
    }
    Ok(output.commit()?)
}
