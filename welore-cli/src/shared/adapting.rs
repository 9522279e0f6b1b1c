//! `--adapter`: a LoRA adapter of the PEFT library on a model.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::FloatDType;
use serde_json::Value;
use welore_burn::adapters::LoraAdapter;
use welore_burn::model::{LoadedModel, OpenedModel};

use super::artifacts::in_file;
use super::opening::open_known;
use crate::devices::Compute;
use crate::models;
use crate::terminal::Bar;

/// The directory of a model that is only run, the model in it, and the adapter that may be given; no
/// weights are read yet. With an adapter, the matrices of a `.gguf` file become numbers, since nothing can
/// be added to blocks.
pub fn open(
    model: &Path,
    adapter: Option<&Path>,
    compute: &Compute,
) -> Result<(PathBuf, OpenedModel, Option<LoraAdapter>)> {
    let dir = match adapter {
        Some(_) => models::directory_of(model)?,
        None => models::directory_to_run(model, compute)?,
    };
    let opened = open_known(&dir, &compute.device)?;
    let adapter = adapter.map(|adapter| open_adapter(adapter, &opened)).transpose()?;
    Ok((dir, opened, adapter))
}

/// Reads the adapter in a directory, and checks that it fits a model, whose weights are not read yet.
pub fn open_adapter(dir: &Path, opened: &OpenedModel) -> Result<LoraAdapter> {
    let adapter = LoraAdapter::open(dir)?;
    let adapter = in_file(adapter.for_checkpoint(&opened.checkpoint), dir)?;
    in_file(adapter.check_module(opened.skeleton()), dir)?;
    Ok(adapter)
}

/// Loads a model, with its adapter if there is one.
pub fn load(
    opened: OpenedModel,
    dtype: FloatDType,
    adapter: Option<LoraAdapter>,
) -> Result<LoadedModel> {
    let mut loaded = opened.load(dtype, |_| false, &mut Bar::default())?;
    if let Some(adapter) = adapter {
        loaded.model = adapter.apply(loaded.model)?;
    }
    Ok(loaded)
}

/// Says in a result that it is that of a model with an adapter.
pub fn note_adapter(adapter: Option<&Path>, result: &mut Value) {
    if let Some(adapter) = adapter {
        result["adapter"] = adapter.display().to_string().into();
    }
}
