//! Options that concern numbers of 16 bits: how they are rounded, and the storage that loses least then.

use anyhow::Result;
use safetensors::Dtype;
use welore_burn::compress::Compressor;
use welore_burn::forms::Storage;
use welore_burn::model::FoundModel;
use welore_burn::plan::RankPlan;
use welore_burn::spectrum::{Method, Norms, flat_spectra};

use crate::args::{CompressArgs, Rule, SelectionArgs, Typed, rule};
use crate::format;
use crate::shared::compressing::compressor;
use crate::shared::measuring::budget;
use crate::shared::planning::Goal;
use crate::shared::recipe::Recipe;
use crate::shared::selecting::of_found;
use crate::terminal::Bar;

/// The rule of `--rounding`, as far as it does not depend on the model.
pub(super) fn of_rounding(args: &CompressArgs, recipe: &Recipe, goal: &Goal) -> Rule {
    let has_pivots = match goal {
        Goal::Given(plan) => plan.matrices.iter().any(|m| m.form == Storage::Pivot.at_rank(m.rank)),
        Goal::Target(..) => recipe.storage == Storage::Pivot,
    };
    let fits = recipe.way.method != Method::Svd || has_pivots || args.choose_storage;
    let only = "only with --storage pivot, or a --method that uses a calibration: each number of other \
                factors is rounded by itself";
    rule("rounding", fits, only)
}

/// Refuses what is typed about numbers of 16 bits if no matrix has any, or a given plan leaves nothing
/// to choose.
pub(super) fn check_narrow(
    goal: &Goal,
    found: &FoundModel,
    selection: &SelectionArgs,
    typed: &Typed,
) -> Result<()> {
    if !typed.has("rounding") && !typed.has("choose-storage") {
        return Ok(());
    }
    let is_narrow = |dtype: Dtype| matches!(dtype, Dtype::F16 | Dtype::BF16);
    let (has_narrow, has_choice) = match goal {
        Goal::Given(plan) => {
            let mut factored = plan.matrices.iter().filter(|m| m.form.rank().is_some());
            let choices = Compressor::new(plan).storages_to_choose(found.checkpoint());
            (factored.any(|matrix| is_narrow(matrix.dtype)), choices > 0)
        }
        Goal::Target(..) => {
            let spectra = flat_spectra(found.checkpoint(), &of_found(selection, found)?)?;
            (spectra.matrices.iter().any(|matrix| is_narrow(matrix.dtype)), true)
        }
    };
    let none = "no matrix is stored in 16 bits";
    let fixed = "no matrix of the plan may be stored in another way";
    let hint = "`welore-cli export DIR --dtype bf16` stores a model in 16 bits";
    typed
        .check(["rounding", "choose-storage"].map(|o| rule(o, has_narrow, none).with_hint(hint)))?;
    typed.check([rule("choose-storage", has_choice, fixed)])
}

/// The plan with the storage of each matrix that is nearer to it.
pub(super) fn with_nearest_storage(
    args: &CompressArgs,
    plan: &RankPlan,
    norms: Norms<'_>,
    found: &FoundModel,
) -> Result<RankPlan> {
    let compressor = compressor(plan, norms, None)
        .with_budget(budget(&args.resources))
        .with_rounding(args.rounding);
    let compared = compressor.storages_to_choose(found.checkpoint());
    let mut bar = Bar::default();
    let chosen = compressor.choose_storage(found.checkpoint(), &mut bar);
    bar.finish();
    let chosen = chosen?;
    let pairs = plan.matrices.iter().zip(&chosen.matrices);
    let changed = pairs.filter(|(old, new)| old.form != new.form).count();
    match compared {
        0 => note!("no matrix could be compared in the other storage"),
        _ => {
            let nearer = format::some_matrices(changed, compared, ["is", "are"]);
            note!("{nearer} nearer in the other storage");
        }
    }
    Ok(chosen)
}
