//! When the options that several commands share have an effect.

use anyhow::Result;
use welore_burn::calibrate::GradientLabels;
use welore_burn::plan::{PlanError, RankPolicy};
use welore_burn::spectrum::Method;

use super::calibrating::check_amount;
use super::recipe::{Recipe, check_blockwise};
use crate::args::{AmountArgs, BlockwiseArgs, Rule, SamplingArgs, TextArg, Typed, rule};
use crate::failure::WrongInput;

/// The rule of `--min-ratio`.
pub fn min_ratio(policy: &dyn RankPolicy) -> Rule {
    rule("min-ratio", policy.reads().min_ratio, "only with --policy welore or uniform")
}

/// The rule of an option that concerns types, where ranks are chosen.
pub fn without_engine(option: &'static str) -> Rule {
    rule(option, false, "only with --for")
}

/// The rules of the options on how tokens are sampled.
pub fn of_sampling(args: &SamplingArgs) -> [Rule; 3] {
    let samples = args.temperature != 0.0;
    ["top-k", "top-p", "seed"]
        .map(|option| rule(option, samples, "only with a --temperature above 0"))
}

/// The options of a search.
pub const OF_SEARCH: [&str; 5] =
    ["evaluations", "search-seed", "search-text", "search-windows", "journal"];

/// The options on how plans are measured on a model.
pub const SEARCHING: [&str; 8] = [
    "evaluations",
    "search-seed",
    "search-text",
    "search-windows",
    "journal",
    "backend",
    "device",
    "dtype",
];

/// The rules of the options on how plans are measured on a model.
pub fn of_search(policy: &dyn RankPolicy) -> [Rule; 8] {
    let searches = policy.reads().searches.is_some();
    let only = "only with --policy searched or bolaco, which measure plans on the model";
    SEARCHING.map(|option| rule(option, searches, only))
}

/// The rules of the options on how matrices are approximated.
pub fn of_method(recipe: &Recipe) -> [Rule; 2] {
    let method = recipe.way.method;
    let calibrated = "only with a --method that uses a calibration";
    let with_gradients = "only with --method two-sided, sequential or best";
    [
        rule("shrink-inputs", method != Method::Svd, calibrated),
        rule("shrink-gradients", method == Method::TwoSided, with_gradients),
    ]
}

/// The rules of the options on the texts to calibrate on, if there are any.
pub fn of_amount(texts: &[TextArg], amount: &AmountArgs) -> impl Iterator<Item = Rule> {
    let calibrates = !texts.is_empty();
    let options = [
        "calibration-windows",
        "gradient-windows",
        "gradient-labels",
        "label-seed",
        "probe-windows",
        "calibration-seq-len",
        "too-little",
    ];
    let rules = options.map(|option| rule(option, calibrates, "only with --calibrate"));
    let others = of_own_text(texts).into_iter().chain(of_labels(amount));
    rules.into_iter().chain([of_effort(texts, amount)]).chain(others)
}

/// The rule of `--bos`, where texts are read only to calibrate on them.
pub fn of_bos(texts: &[TextArg]) -> Rule {
    let reads = texts.iter().any(|text| text.file().is_some());
    rule("bos", reads, "only where a text is read from a file")
}

/// The rule of `--effort`, beside these texts to calibrate on, if there are any.
fn of_effort(texts: &[TextArg], amount: &AmountArgs) -> Rule {
    let is_open = amount.calibration_windows.is_none() || amount.gradient_windows.is_none();
    let is_written = texts == [TextArg::Own] && amount.own.self_samples.is_some();
    let why = match (texts.is_empty(), is_open) {
        (true, _) => "only where a calibration is made",
        (false, false) => "--calibration-windows and --gradient-windows decide what it would",
        (false, true) => "--self-samples says how much text there is to read",
    };
    rule("effort", !texts.is_empty() && is_open && !is_written, why)
}

/// The rules of the options on the text that the model writes.
fn of_own_text(texts: &[TextArg]) -> [Rule; 5] {
    let writes = texts.contains(&TextArg::Own);
    let options = ["self-samples", "self-length", "self-temperature", "self-seed", "self-start"];
    options.map(|option| rule(option, writes, "only if the model calibrates on the text `self`"))
}

/// The rules of the options on the labels of gradients.
fn of_labels(amount: &AmountArgs) -> [Rule; 2] {
    let has_gradients = amount.gradient_windows != Some(0);
    let draws = amount.gradient_labels == GradientLabels::Model;
    [
        rule("gradient-labels", has_gradients, "needs --gradient-windows"),
        rule("label-seed", has_gradients && draws, "only with --gradient-labels model"),
    ]
}

/// The rules of the options on compressing block by block.
pub fn of_blockwise(args: &BlockwiseArgs, is_sequential: bool) -> [Rule; 4] {
    let (refines, follows) = (args.refine > 0, args.follow > 0.0);
    [
        rule("follow", is_sequential, "only with method sequential"),
        rule(
            "no-adapt-dense",
            is_sequential && follows,
            "only with method sequential, and --follow above 0",
        ),
        rule("fit-windows", is_sequential || refines, "only with method sequential, or --refine"),
        rule("refine-lr", refines, "only with --refine"),
    ]
}

/// The rules of the options on what is measured on a text, beside the inputs of matrices. No
/// gradients at all is less work for every method.
pub fn of_measurements(recipes: &[&Recipe], amount: &AmountArgs) -> [Rule; 4] {
    let probes = recipes.iter().any(|recipe| recipe.policy.reads().probes);
    let gradients = recipes.iter().any(|recipe| recipe.way.method == Method::TwoSided);
    let with_gradients = "only with method two-sided, sequential or best; others read no gradients";
    [
        rule("gradient-windows", gradients || amount.gradient_windows == Some(0), with_gradients)
            .with_hint("--gradient-windows 0 saves computing gradients"),
        rule("gradient-labels", gradients, with_gradients),
        rule("label-seed", gradients, with_gradients),
        rule("probe-windows", probes, "only with policy probed; others read no probes"),
    ]
}

/// Checks how a model is to be calibrated for recipes and compressed, before the texts are read.
pub fn check_calibrating<'a>(
    texts: &[TextArg],
    amount: &AmountArgs,
    recipes: impl IntoIterator<Item = &'a Recipe>,
    typed: &Typed,
) -> Result<()> {
    check_amount(texts, amount, typed)?;
    let recipes: Vec<&Recipe> = recipes.into_iter().collect();
    typed.check(of_measurements(&recipes, amount))?;
    for Recipe { way, policy, .. } in recipes {
        if way.method == Method::TwoSided && amount.gradient_windows == Some(0) {
            let message = format!("--gradient-windows 0: method {} needs gradients", way.name);
            return Err(WrongInput::with_hint(message, "give more, or method whitened").into());
        }
        if policy.reads().probes && amount.probe_windows == 0 {
            return Err(PlanError::NotProbed { policy: policy.name() }.into());
        }
    }
    Ok(())
}

/// Checks the options on compressing block by block.
pub fn check_blocks(args: &BlockwiseArgs, is_sequential: bool, typed: &Typed) -> Result<()> {
    check_blockwise(args)?;
    typed.check(of_blockwise(args, is_sequential))
}
