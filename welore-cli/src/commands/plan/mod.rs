//! `plan`: which matrices to factor, and at which ranks; or which type each matrix gets.

mod search;
mod types;

use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::calibrate::Calibration;
use welore_burn::model::FoundModel;
use welore_burn::modules::Selection;
use welore_burn::plan::{PlanFileError, PlanOptions, RankPlan, Target, read_plan};
use welore_burn::spectrum::{
    Method, Norms, Spectra, SpectrumError, SpectrumUnit, selected_matrices,
};

use crate::args::{PlanArgs, RANK_OPTIONS, ResourceArgs, Typed, ViewArgs, rule};
use crate::failure::WrongInput;
use crate::models::Artifact;
use crate::shared::artifacts::{check_artifact, claim, in_file, read_artifact, write_artifact};
use crate::shared::effects::{SEARCHING, min_ratio, of_method, of_search, without_engine};
use crate::shared::measuring::{Known, measure_within};
use crate::shared::opening::{check_stored, open_asked, to_run};
use crate::shared::page::{check_page, write_page};
use crate::shared::planning::{
    check_limits, check_size, note_calibration, plan_for, print_plan, warn_of_prospect,
};
use crate::shared::recipe::{Recipe, check_calibration_file, is_size, open_calibration};
use crate::shared::selecting::{check_patterns, of_file, of_found, tell_selected};
use crate::{models, output};

/// Runs the command.
pub fn run(args: PlanArgs, typed: &Typed) -> Result<()> {
    if args.typing.engine.is_some() {
        return types::run(&args, typed);
    }
    typed.check(OF_TYPES.map(without_engine))?;
    let reads_text = args.search.search_text.is_some();
    typed.check([rule("bos", reads_text, "only with --search-text, or with --for --calibrate")])?;
    if args.typing.bits.is_some() {
        return Err(WrongInput::new("--bits: only with --for llama.cpp").into());
    }
    let (calibration, text) = (&args.method.calibration, &args.search.search_text);
    let inputs = || [Some(&args.source), calibration.as_ref(), text.as_ref()].into_iter().flatten();
    check_artifact(args.output.as_deref(), Artifact::Plan, inputs().map(PathBuf::as_path))?;
    check_page(&args.page, args.output.as_deref(), inputs().map(PathBuf::as_path))?;
    search::check_place(&args, inputs().map(PathBuf::as_path))?;
    check_calibration_file(args.method.calibration.as_deref())?;
    check_patterns(&args.selection)?;
    Selection::of(&args.view.filter)?;
    let in_table = "only in the table, not with --json";
    typed.check(["sort", "filter"].map(|option| rule(option, !args.json, in_table)))?;
    models::check_planned(&args.source)?;
    let Some(goal) = args.goal.target() else { return show(&args, typed) };
    let _claim = claim(args.output.as_deref())?;
    let source = Source::open(&args)?;
    let recipe = source.recipe(&args, goal, typed)?;
    typed.check([min_ratio(recipe.policy)])?;
    typed.check(of_search(recipe.policy))?;
    let options = recipe.plan_options(goal, &args.target)?;
    let Made { spectra, plan, known, runs } = match (source, recipe.policy.reads().searches) {
        (Source::Model, Some(_)) => search::searched(&args, &recipe, &options)?,
        (source, _) => source.planned(&args, &recipe, &options)?,
    };
    if let Some(path) = &args.output {
        write_artifact(path, &plan.to_json())?;
    }
    write_page(&args.page, &format!("Plan for {}", args.source.display()), |page| {
        page.spectra(&spectra);
        page.plan(&plan);
        Ok(())
    })?;
    print(&args, &plan)?;
    warn_of_prospect(&plan, runs);
    if runs && plan.unit == SpectrumUnit::Weights && args.method.method.is_none() && is_size(goal) {
        note!(
            "planned from the weights alone; to plan as `compress` does, run `welore-cli calibrate \
             MODEL --text self -o FILE`, then `welore-cli plan MODEL --calibration FILE`"
        );
    }
    known.tell("measured");
    Ok(())
}

/// A plan, and what was measured for it.
struct Made {
    spectra: Spectra,
    plan: RankPlan,
    known: Known,
    /// Whether the model can be run, as far as that is known.
    runs: bool,
}

/// Shows a plan that was made before.
fn show(args: &PlanArgs, typed: &Typed) -> Result<()> {
    if models::is_missing(&args.source) {
        return Err(no_such("model directory, spectra file or plan", &args.source).into());
    }
    let Some(plan) = plan_in(&args.source)? else {
        let message = format!("{}: there is no target to plan for", args.source.display());
        let hint = "give --keep-params, --max-bytes, --err or --err-applied";
        return Err(WrongInput::with_hint(message, hint).into());
    };
    let made = "not for a plan, which has been made already";
    let options = MEASURING.into_iter().chain(RANK_OPTIONS).chain(SEARCHING).chain(["output"]);
    typed.check(options.map(|option| rule(option, false, made)))?;
    check_filter(&args.view, plan.matrices.iter().map(|matrix| matrix.name.as_str()))?;
    write_page(&args.page, &format!("Plan in {}", args.source.display()), |page| {
        page.plan(&plan);
        Ok(())
    })?;
    print(args, &plan)
}

fn no_such(what: &str, source: &Path) -> WrongInput {
    let message = format!("{}: no such {what}", source.display());
    WrongInput::with_hint(message, models::WHAT_MODEL_IS)
}

/// The plan in a plan file or in a compressed model directory. `None` if there is something else.
fn plan_in(source: &Path) -> Result<Option<RankPlan>> {
    if source.is_dir() {
        return Ok(read_plan(source)?);
    }
    if !source.is_file() || models::is_model_file(source) {
        return Ok(None);
    }
    match RankPlan::from_json(&read_artifact(source)?) {
        Err(PlanFileError::Format(_)) => Ok(None),
        plan => in_file(plan, source).map(Some),
    }
}

fn print(args: &PlanArgs, plan: &RankPlan) -> Result<()> {
    if args.json {
        return output::print_json(plan);
    }
    let mut table = plan.table();
    if !args.view.filter.is_empty() {
        table = table.filtered(&Selection::of(&args.view.filter)?);
    }
    if let Some(column) = args.view.sort {
        table = table.sorted_by(column);
    }
    print_plan(plan, &table)
}

/// Refuses a filter with a pattern that matches none of the planned matrices.
fn check_filter<'a>(view: &ViewArgs, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let (filter, names) = (Selection::of(&view.filter)?, names.collect::<Vec<_>>());
    match filter.unmatched(&names).first() {
        None => Ok(()),
        Some(&pattern) => {
            let (patterns, meant) = (pattern.into(), Selection::meant(pattern, &names));
            Err(SpectrumError::UnmatchedPattern { patterns, meant }.into())
        }
    }
}

/// Options that concern types, and the calibration that is made for them.
const OF_TYPES: [&str; 18] = [
    "types",
    "no-measure",
    "tensor-types",
    "calibrate",
    "save-calibration",
    "effort",
    "calibration-windows",
    "gradient-windows",
    "gradient-labels",
    "label-seed",
    "probe-windows",
    "calibration-seq-len",
    "too-little",
    "self-samples",
    "self-length",
    "self-temperature",
    "self-seed",
    "self-start",
];

/// The options on how matrices are measured.
const MEASURING: [&str; 8] = [
    "method",
    "calibration",
    "shrink-inputs",
    "shrink-gradients",
    "jobs",
    "max-memory",
    "no-cache",
    "convolutions",
];

/// Where singular values come from.
enum Source {
    Spectra(Box<Spectra>),
    /// A model, in which they are measured.
    Model,
}

impl Source {
    fn open(args: &PlanArgs) -> Result<Self> {
        if !args.source.is_file() || models::is_model_file(&args.source) {
            return Ok(Self::Model);
        }
        let path = &args.source;
        let spectra = in_file(Spectra::from_json(&read_artifact(path)?), path)?;
        // Without patterns, the file is taken as it is, whichever patterns it was measured with.
        let spectra = match args.selection.include.is_empty() && args.selection.exclude.is_empty() {
            true => spectra,
            false => spectra.select(&of_file(&args.selection)?)?,
        };
        Ok(Self::Spectra(spectra.into()))
    }

    /// How the ranks are chosen. For spectra, the defaults depend on what they measure.
    fn recipe(&self, args: &PlanArgs, goal: Target, typed: &Typed) -> Result<Recipe> {
        match self {
            Self::Spectra(spectra) => {
                let measured = "not for a spectra file, which has been measured already";
                typed.check(MEASURING.map(|option| rule(option, false, measured)))?;
                Recipe::for_spectra(&args.target, goal, spectra.unit)
            }
            Self::Model => {
                let calibrated = args.method.calibration.is_some();
                let recipe =
                    Recipe::choose_any(&args.method, &args.target, Some(goal), calibrated)?;
                typed.check(of_method(&recipe))?;
                let uses = recipe.way.method != Method::Svd;
                typed.check([rule(
                    "calibration",
                    uses,
                    "--method svd does not use a calibration",
                )])?;
                Ok(recipe)
            }
        }
    }

    /// The plan for the spectra, which are measured where they have to be, after checking the limits
    /// on their matrices.
    fn planned(self, args: &PlanArgs, recipe: &Recipe, options: &PlanOptions) -> Result<Made> {
        if let Self::Spectra(spectra) = self {
            check_filter(&args.view, spectra.matrices.iter().map(|matrix| matrix.name.as_str()))?;
            check_size(options, spectra.model.bytes)?;
            let plan = plan_for(&spectra, recipe.policy, options)?;
            return Ok(Made { spectra: *spectra, plan, known: Known::default(), runs: true });
        }
        check_stored(args.convolutions, options.storage)?;
        let subject = Subject::open(args, options)?;
        let norms = recipe.norms(subject.calibration.as_ref())?;
        let (spectra, known) = subject.measure(norms, &args.resources)?;
        let mut plan = plan_for(&spectra, recipe.policy, options)?;
        note_calibration(&mut plan, subject.calibration.as_ref());
        tell_selected(&args.selection, &subject.found);
        Ok(Made { spectra, plan, known, runs: subject.found.familiar().is_some() })
    }
}

/// A model whose matrices are planned.
struct Subject {
    /// Its directory.
    dir: PathBuf,
    found: FoundModel,
    selected: Selection,
    calibration: Option<Calibration>,
}

impl Subject {
    /// Opens the model, and checks what was asked for.
    fn open(args: &PlanArgs, options: &PlanOptions) -> Result<Self> {
        let dir = models::directory_of(&args.source)?;
        if !dir.exists() {
            return Err(no_such("model directory or spectra file", &args.source).into());
        }
        let found = open_asked(&dir, args.convolutions)?;
        let selected = of_found(&args.selection, &found)?;
        let matrices = selected_matrices(found.checkpoint(), &selected)?;
        check_limits(options, found.checkpoint(), &selected)?;
        check_filter(&args.view, matrices.iter().map(|(name, _)| name.as_str()))?;
        let file = args.method.calibration.as_deref();
        let calibration = match file {
            Some(_) => {
                let model = to_run(&found, "a calibration", "leave --calibration out")?;
                open_calibration(file, model.skeleton())?
            }
            None => None,
        };
        Ok(Self { dir, found, selected, calibration })
    }

    /// The spectra of its matrices.
    fn measure(&self, norms: Norms<'_>, resources: &ResourceArgs) -> Result<(Spectra, Known)> {
        measure_within(self.found.checkpoint(), &self.selected, norms, resources)
    }
}
