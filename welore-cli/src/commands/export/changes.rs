//! The changes that training made to a model: saved by themselves, or applied.

use std::path::Path;

use anyhow::Result;
use serde_json::json;
use welore_burn::changes::{Changes, SavedChanges};
use welore_burn::files::OutputDir;
use welore_burn::model::FoundModel;

use crate::args::ExportArgs;
use crate::shared::artifacts::{check_place, check_space};
use crate::shared::inputs::{check_not_left, check_outside};
use crate::shared::opening::open_any;
use crate::terminal::Bar;
use crate::{format, models, output};

/// Writes the tensors in which the model differs from its base to the directory `target`.
pub fn run(args: &ExportArgs, base: &Path, target: &Path) -> Result<()> {
    let inputs = [args.model.as_path(), base];
    check_not_left(target, inputs)?;
    check_place(target)?;
    let tuned = open_any(&models::directory_of(&args.model)?)?;
    let base = open_any(&models::directory_of(base)?)?;
    OutputDir::check_free(target, args.force)?;
    check_outside(target, inputs)?;
    let mut bar = Bar::default();
    let changes = Changes::between(base.checkpoint(), tuned.checkpoint(), &mut bar)?;
    bar.finish();
    check_space(target, changes.bytes())?;
    if !args.dry_run {
        changes.save(target, args.force)?;
    }
    tell(args, target, &changes, base.checkpoint().names().count())
}

/// The model with the changes in a directory.
pub fn applied(dir: &Path, found: FoundModel) -> Result<FoundModel> {
    let changes = SavedChanges::open(dir)?;
    let mut bar = Bar::default();
    let found = found.with_changes(changes, &mut bar)?;
    bar.finish();
    Ok(found)
}

/// Reports what was written, or would be; the base has `all` tensors.
fn tell(args: &ExportArgs, target: &Path, changes: &Changes<'_>, all: usize) -> Result<()> {
    let (changed, parameters) = (changes.tensors().len(), changes.parameters());
    if args.json {
        let mut told = json!({
            "output": target.display().to_string(),
            "tensors": all,
            "changed": changed,
            "parameters": parameters,
            "bytes": changes.bytes(),
        });
        if args.dry_run {
            told["dry_run"] = true.into();
        }
        return output::print_json(&told);
    }
    say!(
        "{} {}: {changed} of {}, {} parameters, {}",
        if args.dry_run { "would write" } else { "wrote" },
        target.display(),
        format::number_of(all, "tensor"),
        format::count(parameters),
        format::bytes(changes.bytes())
    );
    Ok(())
}
