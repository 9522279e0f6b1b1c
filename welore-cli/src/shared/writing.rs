//! Writing models from memory into directories.

use std::path::Path;

use anyhow::Result;
use burn::module::Module;
use safetensors::Dtype;
use welore_burn::checkpoint::{
    Checkpoint, DEFAULT_SHARD_BYTES, PLAN_FILE, copy_companions, save_module, state_compressed,
};
use welore_burn::files::{LARGEST_CONFIG, OutputDir, read_input, write_file};
use welore_burn::modules::MatrixName;
use welore_burn::plan::RankPlan;

use super::artifacts::in_target;
use super::card::write_tuned_card;
use crate::terminal::Bar;

/// The chat template of a model directory, which stands above what other files of it state.
pub const TEMPLATE_FILE: &str = "chat_template.jinja";

/// The types to store the tensors of a model in, if it was loaded from a checkpoint: each tensor in
/// the type that it has there, a merged weight in the type of its factors, and factors that were in
/// blocks in the type of the first tensor of numbers.
pub fn stored_types(checkpoint: &Checkpoint) -> impl Fn(&str) -> Dtype {
    let of = |name: &str| checkpoint.meta(name).map(|meta| meta.dtype);
    let is_float = |dtype: &Dtype| !matches!(dtype, Dtype::U8 | Dtype::I32);
    let first = checkpoint.names().filter_map(of).find(is_float).unwrap_or(Dtype::F32);
    move |tensor| {
        let parts = || Some(checkpoint.stored_matrix(&MatrixName::of_weight(tensor)?)?.dtype);
        of(tensor).or_else(parts).unwrap_or(first)
    }
}

/// Writes a model into a directory, which appears only when complete, with the companions of the
/// directory `from`, and the chat template of a file in place of the one there. `compressed` is the
/// plan of a compressed model and, for its card, how the model was trained.
pub fn write_model(
    model: &impl Module,
    dtype_of: impl Fn(&str) -> Dtype,
    from: &Path,
    template: Option<&Path>,
    compressed: Option<(&RankPlan, &str)>,
    output: OutputDir,
) -> Result<()> {
    save_module(model, output.path(), dtype_of, DEFAULT_SHARD_BYTES, &mut Bar::default())
        .map_err(|error| error.about(&output))?;
    copy_companions(from, output.path()).map_err(|error| error.about(&output))?;
    if let Some(file) = template {
        let content = read_input(file, LARGEST_CONFIG)?;
        write_file(output.path().join(TEMPLATE_FILE), &content)
            .map_err(|error| output.name_target(error))?;
    }
    if let Some((plan, how)) = compressed {
        write_file(output.path().join(PLAN_FILE), plan.to_json().as_bytes())
            .map_err(|error| output.name_target(error))?;
        in_target(write_tuned_card(output.path(), from, plan, how), &output)?;
    }
    state_compressed(output.path()).map_err(|error| error.about(&output))?;
    Ok(output.commit()?)
}
