//! A model directory for other programs: dense, in another type, or from GGUF.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use welore_burn::adapters::LoraAdapter;
use welore_burn::checkpoint::{Checkpoint, passes_for_dense};
use welore_burn::compress::{
    Conversion, WriteOptions, changes_tensors, convert_directory, converted_size, merge_adapter,
    merged_size,
};
use welore_burn::files::OutputDir;
use welore_burn::model::FoundModel;
use welore_burn::plan::RankPlan;
use welore_burn::spectrum::ModelSize;

use super::changes::applied;
use crate::args::ExportArgs;
use crate::failure::WrongInput;
use crate::shared::artifacts::{check_output, check_space, in_file, in_target};
use crate::shared::card::{MADE_BY, name_of, write_converted_card, write_tuned_card};
use crate::shared::inputs::{check_not_left, check_outside};
use crate::shared::opening::open_any;
use crate::terminal::Bar;
use crate::{format, models, output};

/// Writes the directory `target`.
pub fn run(args: &ExportArgs, target: &Path) -> Result<()> {
    check_asked(args)?;
    let inputs = || {
        let others = args.adapter.as_deref().into_iter().chain(args.changes.as_deref());
        [args.model.as_path()].into_iter().chain(others)
    };
    check_not_left(target, inputs())?;
    let model = models::directory_of(&args.model)?;
    let mut found = open_any(&model)?;
    check_output(target, &model)?;
    let output = match args.dry_run {
        true => OutputDir::check_free(target, args.force).map(|()| None)?,
        false => Some(OutputDir::create(target, args.force)?),
    };
    check_outside(target, inputs())?;
    if let Some(dir) = &args.changes {
        found = applied(dir, found)?;
    }
    let adapter = args.adapter.as_deref().map(|dir| open_adapter(dir, &found)).transpose()?;
    let checkpoint = found.checkpoint();
    let way = match &adapter {
        Some(adapter) => Way::Adding(adapter),
        None => Way::Converting(conversion(args, &found)?),
    };
    let size = match way {
        Way::Adding(adapter) => merged_size(checkpoint, adapter, args.dtype)?,
        Way::Converting(conversion) => converted_size(checkpoint, conversion)?,
    };
    check_space(target, size.bytes)?;
    let Some(output) = output else {
        return preview(args, target, size);
    };
    let mut bar = Bar::default();
    let options = WriteOptions { shard_bytes: args.shards.shard_size, ..WriteOptions::default() };
    let plan = match way {
        Way::Adding(adapter) => {
            merge_adapter(checkpoint, adapter, args.dtype, &output, &options, &mut bar)?;
            None
        }
        Way::Converting(conversion) => {
            convert_directory(checkpoint, conversion, &output, &options, &mut bar)?
        }
    };
    bar.finish();
    in_target(write_card(args, &model, plan.as_ref(), output.path()), &output)?;
    output.commit()?;
    tell(args, target, &Checkpoint::open(target)?)
}

/// Refuses to copy a directory.
fn check_asked(args: &ExportArgs) -> Result<()> {
    let changes = args.dense || args.dtype.is_some() || args.changes.is_some();
    if changes || models::is_model_file(&args.model) {
        return Ok(());
    }
    let message = format!("{}: neither --dense nor --dtype is given", args.model.display());
    let hint = "--dense multiplies factors together, --dtype TYPE stores all numbers as TYPE";
    Err(WrongInput::with_hint(message, hint).into())
}

/// Writes the card of what was made of the directory `model`, unless that is a dense model for other
/// programs.
fn write_card(
    args: &ExportArgs,
    model: &Path,
    plan: Option<&RankPlan>,
    written: &Path,
) -> Result<()> {
    if args.dense {
        return Ok(());
    }
    let mut card_of = model;
    if let (Some(changes), Some(plan)) = (&args.changes, plan) {
        let name = name_of(&changes.to_string_lossy());
        let how = format!("the changes saved in {name}, applied by {MADE_BY}");
        write_tuned_card(written, model, plan, &how)?;
        card_of = written;
    }
    if args.changes.is_some() && args.dtype.is_none() {
        return Ok(());
    }
    let base = args.model.to_string_lossy();
    write_converted_card(written, card_of, &base, plan, args.dtype)
}

/// How the directory is made.
#[derive(Clone, Copy)]
enum Way<'a> {
    Converting(Conversion),
    /// Dense, with an adapter added.
    Adding(&'a LoraAdapter),
}

/// The adapter in a directory, if it fits the model, which need not be one that can be run here.
fn open_adapter(dir: &Path, found: &FoundModel) -> Result<LoraAdapter> {
    in_file(LoraAdapter::open(dir)?.for_checkpoint(found.checkpoint()), dir)
}

/// What the user asked for, if it changes the model.
fn conversion(args: &ExportArgs, found: &FoundModel) -> Result<Conversion> {
    let conversion = Conversion { dense: args.dense, precision: args.dtype };
    let model = args.model.display();
    if args.dense && found.compressed().is_empty() {
        let message = format!("{model}: no matrix is compressed, so the model is dense already");
        let is_more = args.dtype.is_some() || args.changes.is_some();
        let hint = match is_more || models::is_model_file(&args.model) {
            true => "leave out --dense",
            false => "it can be used as it is; --dtype TYPE would store it in another type",
        };
        return Err(WrongInput::with_hint(message, hint).into());
    }
    let is_as_it_was = args.changes.is_none() && !models::is_model_file(&args.model);
    let checkpoint = found.checkpoint();
    let is_copy =
        is_as_it_was && !changes_tensors(checkpoint, conversion)? && !passes_for_dense(checkpoint)?;
    match args.dtype.filter(|_| is_copy) {
        Some(precision) => {
            let message = format!("{model}: all numbers are {} already", precision.dtype());
            Err(WrongInput::with_hint(message, "it can be used as it is").into())
        }
        None => Ok(conversion),
    }
}

/// Reports what was written.
fn tell(args: &ExportArgs, target: &Path, written: &Checkpoint) -> Result<()> {
    if args.json {
        return output::print_json(&json!({
            "output": target.display().to_string(),
            "parameters": written.parameters(),
            "bytes": written.bytes(),
        }));
    }
    say!(
        "wrote {}: {} parameters, {}",
        target.display(),
        format::count(written.parameters()),
        format::bytes(written.bytes())
    );
    Ok(())
}

/// Shows what would be written.
fn preview(args: &ExportArgs, target: &Path, size: ModelSize) -> Result<()> {
    if args.json {
        return output::print_json(&json!({
            "dry_run": true,
            "output": target.display().to_string(),
            "parameters": size.parameters,
            "bytes": size.bytes,
        }));
    }
    say!(
        "would write {}: {} parameters, {}",
        target.display(),
        format::count(size.parameters),
        format::bytes(size.bytes)
    );
    Ok(())
}
