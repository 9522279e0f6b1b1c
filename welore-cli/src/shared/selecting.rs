//! Which matrices `--include` and `--exclude` select, and which are selected without them.

use std::collections::BTreeMap;

use anyhow::Result;
use welore_burn::checkpoint::{Checkpoint, NotLinear};
use welore_burn::model::{FoundModel, LanguageModel, projections};
use welore_burn::modules::Selection;
use welore_burn::spectrum::{SpectrumError, selected_matrices};

use crate::args::SelectionArgs;
use crate::failure::WrongInput;
use crate::format;

/// Checks the patterns, before the model is looked up.
pub fn check_patterns(args: &SelectionArgs) -> Result<()> {
    selection(args, Selection::all).map(drop)
}

/// The selected matrices of a model: its projections, unless others are included.
pub fn of_model(args: &SelectionArgs, model: &impl LanguageModel) -> Result<Selection> {
    selection(args, || projections(model))
}

/// The selected matrices of a model directory: the projections of a model that is known, the linear
/// layers of another, unless others are included.
pub fn of_found(args: &SelectionArgs, found: &FoundModel) -> Result<Selection> {
    let selected = selection(args, || found.selection())?;
    // No model that is known has convolutions.
    if found.unfamiliar().is_some() {
        let checkpoint = found.checkpoint();
        args.include.iter().try_for_each(|pattern| check_convolutions(pattern, checkpoint))?;
    }
    Ok(selected)
}

/// Refuses a pattern that matches convolutions and no matrix, where convolutions are not read as
/// matrices.
fn check_convolutions(pattern: &str, checkpoint: &Checkpoint) -> Result<()> {
    let alone = Selection::of([pattern])?;
    let mut convolutions = checkpoint.possible_convolutions();
    let is_meant = convolutions.any(|name| alone.matches(name.as_str()));
    let is_matrix = || {
        let selected = selected_matrices(checkpoint, &alone);
        !matches!(selected, Err(SpectrumError::UnmatchedPattern { .. }))
    };
    if !is_meant || is_matrix() {
        return Ok(());
    }
    let message = format!("no matrix matches `{pattern}`, but convolutions do");
    Err(WrongInput::with_hint(message, "--convolutions takes them as matrices").into())
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

/// Says what was taken for a linear layer where the model is not known, and what was not and why:
/// once it is clear that the work is done.
pub fn tell_selected(args: &SelectionArgs, found: &FoundModel) {
    let Some(model) = found.unfamiliar() else { return };
    note!("{}; only the weights are used", model.why);
    if !args.include.is_empty() {
        return;
    }
    let layers = model.linear_layers();
    let selected = format::number_of(layers.names.len(), "linear layer");
    let left_out = left_out(&layers.left_out);
    match left_out.is_empty() {
        true => note!("selected by name and shape: {selected}"),
        false => note!(
            "selected by name and shape: {selected}; left out: {left_out}; --include PATTERN \
             selects others"
        ),
    }
}

/// How many names of each reason are shown.
const SHOWN: usize = 3;

/// What was not taken for a linear layer, by reason, as text.
pub fn left_out(left_out: &[(String, NotLinear)]) -> String {
    let mut by_reason: BTreeMap<NotLinear, Vec<&str>> = BTreeMap::new();
    for (name, why) in left_out {
        by_reason.entry(*why).or_default().push(name);
    }
    let group = |(why, names): (NotLinear, Vec<&str>)| {
        let shown = names[..names.len().min(SHOWN)].join(", ");
        match names.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            Some(more) => format!("{shown} and {more} more ({why})"),
            None => format!("{shown} ({why})"),
        }
    };
    by_reason.into_iter().map(group).collect::<Vec<_>>().join(", ")
}
