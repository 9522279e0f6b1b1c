//! Adapters of the PEFT library that a run begins with, or that result from it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::compress::{WriteOptions, merge_adapter};
use welore_burn::files::OutputDir;
use welore_burn::model::{Decoder, LanguageModel, OpenedModel, open_weights};
use welore_burn::train::{RunFile, Trainable, Training};

use super::data::absolute_path;
use crate::shared::adapting::{named_after, open_adapter};
use crate::terminal::Bar;

/// The directory of the adapter that a run trained.
pub fn adapter_of(run: &Path) -> PathBuf {
    run.join("adapter")
}

/// Writes a model with an adapter added to it to `RUN/base`, which is dense: training starts from that.
pub fn adapted_model(adapter: &Path, opened: &OpenedModel, dir: &Path) -> Result<PathBuf> {
    let base = dir.join("base");
    let found = open_adapter(adapter, opened)?;
    let output = OutputDir::create(&base, false)?;
    let mut bar = Bar::default();
    let options = WriteOptions::default();
    merge_adapter(&opened.checkpoint, &found, None, &output, &options, &mut bar)?;
    bar.finish();
    output.commit()?;
    absolute_path(&base)
}

/// The model with an adapter added to it, without its weights: it is dense.
pub fn with_adapter(adapter: &Path, opened: &OpenedModel) -> Result<Decoder> {
    open_adapter(adapter, opened)?;
    Ok(opened.skeleton_in(|_| None)?)
}

/// Checks that the adapter of a run can be written, if it will have one.
pub fn check_free(dir: &Path, run: &RunFile) -> Result<()> {
    if run.options.trainable == Trainable::Lora {
        OutputDir::check_free(adapter_of(dir), true)?;
    }
    Ok(())
}

/// Writes the adapter that a run trained beside its model, if it trained one.
pub fn write<M: LanguageModel>(training: &Training<M>, run: &RunFile, dir: &Path) -> Result<()> {
    let Some(adapter) = training.adapter()? else { return Ok(()) };
    let base = open_weights(&run.base)?;
    let adapter = adapter.with_base(None, &base);
    // To a compressed model, PEFT would add it otherwise than it was trained.
    let adapter = match base.compressed_matrices()?.is_empty() {
        true => named_after(adapter, &run.base)?,
        false => adapter,
    };
    adapter.save(adapter_of(dir), true)?;
    Ok(())
}

/// Says what the adapter that a run trained belongs to, if that is not the model itself.
pub fn tell_base(run: &RunFile) -> Result<()> {
    let is_trained = run.options.trainable == Trainable::Lora;
    if is_trained && !open_weights(&run.base)?.compressed_matrices()?.is_empty() {
        note!(
            "note: the adapter belongs to the dense model that `welore-cli export {} --dense` writes, \
             because the factors were multiplied together before training",
            run.base.display()
        );
    }
    Ok(())
}
