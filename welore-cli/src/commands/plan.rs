//! `plan`: which matrices to factor, and at which ranks.

use anyhow::Result;
use welore_burn::model::open_model;
use welore_burn::spectrum::{Method, Spectra};

use crate::args::{PlanArgs, Typed, rule};
use crate::devices::host;
use crate::failure::WrongInput;
use crate::shared::artifacts::{check_artifact, in_file, read_artifact, write_artifact};
use crate::shared::effects::{min_ratio, of_method};
use crate::shared::inputs::check_apart;
use crate::shared::measuring::{Known, measure_within};
use crate::shared::page::{check_page, write_page};
use crate::shared::planning::{plan_for, print_plan};
use crate::shared::recipe::{Recipe, open_calibration};
use crate::shared::selecting::{check_patterns, of_file, of_model};
use crate::{models, output};

/// Runs the command.
pub fn run(args: PlanArgs, typed: &Typed) -> Result<()> {
    check_artifact(args.output.as_deref())?;
    let inputs = || [Some(args.source.as_path()), args.method.calibration.as_deref()].into_iter();
    check_apart(args.output.as_deref(), inputs().flatten())?;
    check_page(&args.page, args.output.as_deref(), inputs().flatten())?;
    check_patterns(&args.selection)?;
    let Some(goal) = args.goal.target() else { unreachable!("clap asks for a target") };
    let source = Source::open(&args)?;
    let recipe = source.recipe(&args, typed)?;
    typed.check([min_ratio(recipe.policy)])?;
    let options = recipe.plan_options(goal, &args.target)?;
    let (spectra, known) = source.spectra(&args, &recipe)?;
    let plan = plan_for(&spectra, recipe.policy, &options)?;
    if let Some(path) = &args.output {
        write_artifact(path, &plan.to_json())?;
    }
    write_page(&args.page, &format!("Plan for {}", args.source.display()), |page| {
        page.spectra(&spectra);
        page.plan(&plan);
        Ok(())
    })?;
    if args.json {
        output::print_block(&plan.to_json())?;
    } else {
        print_plan(&plan)?;
    }
    known.tell("measured");
    Ok(())
}

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
    fn recipe(&self, args: &PlanArgs, typed: &Typed) -> Result<Recipe> {
        match self {
            Self::Spectra(spectra) => {
                let measured = "not for a spectra file, which has been measured already";
                let options = ["method", "calibration", "shrink-inputs", "shrink-gradients"];
                let limits = ["jobs", "max-memory", "no-cache"];
                let options = options.into_iter().chain(limits);
                typed.check(options.map(|option| rule(option, false, measured)))?;
                Recipe::for_spectra(&args.target, spectra.unit)
            }
            Self::Model => {
                let calibrated = args.method.calibration.is_some();
                let recipe = Recipe::choose(&args.method, &args.target, calibrated)?;
                typed.check(of_method(&recipe))?;
                let uses = recipe.way.method != Method::Svd;
                typed.check([rule("calibration", uses, "--method svd does not use one")])?;
                Ok(recipe)
            }
        }
    }

    fn spectra(self, args: &PlanArgs, recipe: &Recipe) -> Result<(Spectra, Known)> {
        if let Self::Spectra(spectra) = self {
            return Ok((*spectra, Known::default()));
        }
        let model = models::directory_of(&args.source)?;
        if !model.exists() {
            let message =
                format!("{}: no such model directory or spectra file", args.source.display());
            return Err(WrongInput::with_hint(message, models::WHAT_MODEL_IS).into());
        }
        let opened = open_model(&model, &host())?;
        let selected = of_model(&args.selection, opened.skeleton())?;
        let calibration = open_calibration(args.method.calibration.as_deref())?;
        let norms = recipe.norms(calibration.as_ref())?;
        measure_within(&opened.checkpoint, &selected, norms, &args.resources)
    }
}
