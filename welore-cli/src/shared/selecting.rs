//! Which matrices `--include` and `--exclude` select.

use anyhow::Result;
use welore_burn::model::{LanguageModel, projections};
use welore_burn::modules::Selection;

use crate::args::SelectionArgs;

/// Checks the patterns, before the model is looked up.
pub fn check_patterns(args: &SelectionArgs) -> Result<()> {
    selection(args, Selection::all).map(drop)
}

/// The selected matrices of a model: its projections, unless others are included.
pub fn of_model(args: &SelectionArgs, model: &impl LanguageModel) -> Result<Selection> {
    selection(args, || projections(model))
}

/// The selected matrices of a file: all of them, unless some are included.
pub fn of_file(args: &SelectionArgs) -> Result<Selection> {
    selection(args, Selection::all)
}

fn selection(args: &SelectionArgs, otherwise: impl FnOnce() -> Selection) -> Result<Selection> {
    let included = match args.include.is_empty() {
        true => otherwise(),
        false => Selection::of(&args.include)?,
    };
    Ok(included.except(&args.exclude)?)
}
