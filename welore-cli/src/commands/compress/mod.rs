//! `compress`: from a dense model directory to a compressed one.

mod channels;
mod distilling;
mod joint;
mod mixed;
mod narrow;
mod telling;
mod types;
mod weighed;

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use welore_burn::calibrate::{Calibration, GradientLabels};
use welore_burn::compress::{CompressError, check_plan};
use welore_burn::files::{OutputDir, check_staged, is_within};
use welore_burn::model::FoundModel;
use welore_burn::progress::Interrupted;
use welore_burn::spectrum::Method;

use self::distilling::{distilling, distills, or_suspended};
use self::narrow::{check_narrow, of_rounding, with_nearest_storage};
use self::telling::tell;
use crate::args::{CompressArgs, EngineArg, Rule, TextArg, Typed, rule};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::models::Artifact;
use crate::shared::artifacts::{check_artifact, check_output, in_target};
use crate::shared::calibrating::Making;
use crate::shared::card::write_card;
use crate::shared::compressing::{check_norms, check_other, compressor, load_for_blocks};
use crate::shared::distilling::take_step;
use crate::shared::effects::{
    check_blocks, check_calibrating, min_ratio, of_amount, of_bos, of_method, without_engine,
};
use crate::shared::inputs::{check_not_left, check_outside, place_of};
use crate::shared::measuring::{Known, budget};
use crate::shared::opening::{check_stored, open_asked, open_planned, to_run};
use crate::shared::page::check_page;
use crate::shared::planning::{
    Goal, Planned, check_limits, print_plan, read_plan, warn_of_prospect,
};
use crate::shared::recipe::{Recipe, check_calibration_file, is_size, open_calibration};
use crate::shared::scratch::Scratch;
use crate::shared::selecting::{check_patterns, of_found, tell_selected};
use crate::shared::typing::Typing;
use crate::terminal::Bar;
use crate::{format, memory, models, output};

/// Runs the command.
pub fn run(args: CompressArgs, typed: &Typed) -> Result<()> {
    let of_transformers = args.typing.engine == Some(EngineArg::Transformers);
    if args.typing.engine == Some(EngineArg::Welore) {
        return mixed::run(&args, typed);
    }
    if joint::is_asked(&args.forms) {
        return joint::run(args, typed);
    }
    if !args.forms.is_empty() || of_transformers {
        return channels::run(args, typed);
    }
    match args.typing.engine {
        Some(_) => types::run(&args, typed),
        None => to_ranks(args, typed),
    }
}

/// What a command that chooses types or forms is asked for.
fn typing(args: &CompressArgs) -> Typing<'_> {
    Typing {
        model: &args.model,
        options: &args.typing,
        max_bytes: args.goal.max_bytes,
        plan: args.plan.as_deref(),
        other_calibration: args.other_calibration,
        calibration: args.method.calibration.as_deref(),
        calibrate: &args.calibrate,
        save_calibration: args.save_calibration.as_deref(),
        amount: &args.amount,
        resources: &args.resources,
    }
}

/// Compresses to matrices of low rank.
fn to_ranks(mut args: CompressArgs, typed: &Typed) -> Result<()> {
    check_no_types(&args, typed)?;
    let started = Instant::now();
    let by_default = calibrate_by_default(&mut args, typed)?;
    // Everything that can be wrong is found before any work that would be lost.
    let scratch = Scratch::new(!args.calibrate.is_empty() && args.save_calibration.is_none())?;
    let request = Request::check(&args, typed)?;
    let calibration = request.calibration(&args, scratch.path(), by_default)?;
    let norms = request.recipe.norms(calibration.as_ref())?;
    request.recipe.check_text(&args.blockwise, calibration.as_ref())?;
    let distilling = distilling(&args, &request, calibration.as_ref())?;
    let Request { recipe, goal, found, output, compute } = request;
    let selected = of_found(&args.selection, &found)?;
    let mut planned = goal.plan(found.checkpoint(), &selected, norms.clone(), &args.resources)?;
    if args.plan.is_some() {
        check_norms(&norms, &planned.plan, args.other_calibration)?;
        let given = calibration.as_ref().filter(|_| args.method.calibration.is_some());
        check_other(args.other_calibration, given, [&planned.plan])?;
    }
    warn_of_prospect(&planned.plan, found.familiar().is_some());
    if args.plan.is_none() {
        tell_selected(&args.selection, &found);
    }
    if args.choose_storage {
        planned.plan = with_nearest_storage(&args, &planned.plan, norms.clone(), &found)?;
    }
    let Some(output) = output else { return show(&args, &found, &planned) };
    let blockwise = compute
        .as_ref()
        .and_then(|compute| recipe.blockwise(&args.blockwise, calibration.as_ref(), compute));
    let compressor = compressor(&planned.plan, norms, blockwise)
        .with_budget(budget(&args.resources))
        .with_rounding(args.rounding)
        .with_shard_bytes(args.shards.shard_size);
    let (checkpoint, mut bar) = (found.checkpoint(), Bar::default());
    let written = match (&compute, blockwise) {
        (Some(compute), Some(_)) => {
            let model = load_for_blocks(checkpoint.dir(), compute, &mut bar)?;
            compressor.directory_with(model, checkpoint, &output, &mut bar)
        }
        _ => compressor.directory(checkpoint, &output, &mut bar),
    };
    bar.finish();
    let (output, mut report) = or_kept(output, written)?;
    let step = match (distilling, &calibration, &compute) {
        (Some(options), Some(of), Some(on)) => {
            let factored = (&compressor, &planned.plan);
            take_step(factored, checkpoint, &output, of, &options, on, &mut report).map(Some)
        }
        _ => Ok(None),
    };
    let (output, step) = or_suspended(output, step)?;
    planned.plan = report.noted_in(&planned.plan);
    let (base, labels) = (args.model.to_string_lossy(), labels_of(calibration.as_ref()));
    let card = write_card(output.path(), checkpoint.dir(), &base, &planned.plan, labels);
    in_target(card, &output)?;
    output.commit()?;
    let known = Known::of(&bar, report.compressed.len() + report.adapted.len());
    tell(&args, &planned, &report, step.as_ref(), started.elapsed().as_secs_f64())?;
    planned.measured.tell("measured");
    known.tell("compressed");
    Ok(())
}

/// The labels of a calibration's gradients.
fn labels_of(calibration: Option<&Calibration>) -> Option<GradientLabels> {
    calibration.and_then(Calibration::gradient_labels).map(|(labels, _)| labels)
}

/// Refuses options on types, which only the file of another engine has, and on channels.
fn check_no_types(args: &CompressArgs, typed: &Typed) -> Result<()> {
    typed.check(["types", "no-measure", "save-types"].map(without_engine))?;
    let only = "only with --forms channels";
    typed.check(["widths", "width-multiple"].map(|option| rule(option, false, only)))?;
    match args.typing.bits {
        Some(_) => Err(WrongInput::new("--bits: only with --for llama.cpp").into()),
        None => Ok(()),
    }
}

/// Whether the model writes its own text to calibrate on unless `--no-calibration` is given: for a
/// target in parameters or bytes, if nothing else says what to calibrate on, or that nothing is.
fn calibrates_by_default(args: &CompressArgs) -> bool {
    let to_size = args.plan.is_none() && args.goal.target().is_some_and(is_size);
    let of_weights = args.method.method.is_some_and(|way| way.method == Method::Svd);
    to_size && !of_weights && !is_calibrated(args)
}

/// Puts the model's own text in its place where it is the default, and returns whether it is.
/// Refuses `--no-calibration` where nothing would be calibrated.
fn calibrate_by_default(args: &mut CompressArgs, typed: &Typed) -> Result<bool> {
    let calibrates = calibrates_by_default(args);
    let why = match (&args.plan, args.goal.target()) {
        (Some(_), _) => {
            "has no effect with --plan, which does not calibrate by itself; it is for \
             --keep-params and --max-bytes"
        }
        (None, Some(target)) if is_size(target) => {
            "has no effect with --method svd, which uses the weights alone"
        }
        (None, _) => {
            "has no effect with --err or --err-applied, which do not calibrate by themselves; it is \
             for --keep-params and --max-bytes"
        }
    };
    typed.check([rule("no-calibration", calibrates, why)])?;
    let by_default = calibrates && !args.no_calibration;
    if by_default {
        args.calibrate.push(TextArg::Own);
    }
    if !is_calibrated(args) && !typed.has("refine") {
        // One in a file of settings is for commands that calibrate.
        args.blockwise.refine = 0;
    }
    Ok(by_default)
}

/// Refuses a place for the calibration that is replaced by what the command writes later, or in
/// which it would replace what the command reads.
fn check_saved(args: &CompressArgs) -> Result<()> {
    let Some(path) = args.save_calibration.as_deref() else { return Ok(()) };
    check_artifact(Some(path), Artifact::Calibration, inputs(args))?;
    check_staged(path)?;
    let place = place_of(path);
    let is_same = |other: &Path| place.is_some() && place_of(other) == place;
    let parent = place.as_deref().and_then(Path::parent);
    let message = if parent.is_some_and(|dir| is_within(dir, &args.output)) || is_same(&args.output)
    {
        format!("{}: the calibration would be replaced by the model", path.display())
    } else if args.page.report.as_deref().is_some_and(is_same) {
        format!("{}: both the calibration and the --report page", path.display())
    } else {
        return Ok(());
    };
    Err(WrongInput::with_hint(message, "give --save-calibration another file").into())
}

/// The directory that was written. Where that failed or was stopped, what is finished is kept.
fn or_kept<T>(output: OutputDir, written: Result<T, CompressError>) -> Result<(OutputDir, T)> {
    match written {
        Ok(report) => Ok((output, report)),
        Err(error) => {
            tell_kept(&output);
            if error.is_interruption() {
                output.suspend();
                return Err(Interrupted.into());
            }
            Err(error.into())
        }
    }
}

/// Where finished matrices are kept, if any are: they take as much room as a model.
fn tell_kept(output: &OutputDir) {
    if let Some(dir) = output.keeps_work() {
        let dir = dir.display();
        note!("the matrices done so far are kept in {dir}; the same command continues from them");
    }
}

/// What the user asked for, checked and opened.
struct Request {
    recipe: Recipe,
    goal: Goal,
    found: FoundModel,
    /// `None` for a dry run, which writes nothing, not even beside the output.
    output: Option<OutputDir>,
    /// `None` if only weights are decomposed: this runs on the CPU and needs no device.
    compute: Option<Compute>,
}

impl Request {
    fn check(args: &CompressArgs, typed: &Typed) -> Result<Self> {
        check_page(&args.page, Some(&args.output), inputs(args))?;
        check_not_left(&args.output, inputs(args))?;
        check_calibration_file(args.method.calibration.as_deref())?;
        check_patterns(&args.selection)?;
        let (recipe, goal) = recipe_and_goal(args)?;
        check_effects(args, &recipe, &goal, typed)?;
        check_saved(args)?;
        check_calibrates_plan(args, &recipe, &goal)?;
        if args.blockwise.refine > 0 && !is_calibrated(args) {
            return Err(WrongInput::with_hint(
                "--refine needs a calibration",
                "give --calibrate TEXT, or --calibration FILE",
            )
            .into());
        }
        check_stored(args.convolutions, recipe.storage)?;
        let model = models::directory_of(&args.model)?;
        let found = match &goal {
            Goal::Given(plan) => open_planned(&model, plan)?,
            Goal::Target(..) => open_asked(&model, args.convolutions)?,
        };
        if needs_model(args, &recipe) {
            to_run(&found, "calibrating", without_running(&goal))?;
        }
        check_output(&args.output, &model)?;
        let output = match args.dry_run {
            true => OutputDir::check_free(&args.output, args.force).map(|()| None)?,
            false => Some(OutputDir::resumable(&args.output, args.force)?),
        };
        check_outside(&args.output, inputs(args))?;
        match &goal {
            Goal::Given(plan) => check_plan(found.checkpoint(), plan)?,
            Goal::Target(options, _) => {
                let selected = of_found(&args.selection, &found)?;
                check_limits(options, found.checkpoint(), &selected)?;
            }
        }
        check_narrow(&goal, &found, &args.selection, typed)?;
        let compute = match computes(args, &recipe) {
            true => {
                memory::keep_pages();
                Some(Compute::choose(args.compute.choice())?)
            }
            false => None,
        };
        Ok(Self { recipe, goal, found, output, compute })
    }

    /// The given calibration, or one of the given texts, made in `scratch` unless it is to be kept;
    /// `by_default` states whether nobody asked for it.
    fn calibration(
        &self,
        args: &CompressArgs,
        scratch: &Path,
        by_default: bool,
    ) -> Result<Option<Calibration>> {
        if !reads_calibration(args, &self.recipe) {
            return Ok(None);
        }
        let Some(compute) = self.compute.as_ref().filter(|_| !args.calibrate.is_empty()) else {
            return match self.found.familiar() {
                Some(model) => {
                    open_calibration(args.method.calibration.as_deref(), model.skeleton())
                }
                // One that is given was refused.
                None => Ok(None),
            };
        };
        let instead = "--calibrate FILE uses a text of yours, --no-calibration the weights alone";
        let model = self.found.checkpoint().dir();
        calibration_of(args, model, compute, scratch, by_default.then_some(instead)).map(Some)
    }
}

/// The calibration on the texts that are named, made first. `instead` says what else can be done, where
/// nobody named any.
fn calibration_of(
    args: &CompressArgs,
    model: &Path,
    compute: &Compute,
    scratch: &Path,
    instead: Option<&str>,
) -> Result<Calibration> {
    let (texts, amount) = (&args.calibrate, &args.amount);
    let making = Making { model, texts, amount, kept: args.save_calibration.as_deref(), instead };
    let fate = "the calibration is removed at the end; --save-calibration FILE keeps it for `plan` \
                and other targets";
    making.make(compute, &scratch.join("calibration"), fate)
}

/// What the command reads.
fn inputs(args: &CompressArgs) -> impl Iterator<Item = &Path> {
    let files = [&args.plan, &args.method.calibration];
    let files = files.into_iter().filter_map(|file| file.as_deref());
    let texts = args.calibrate.iter().filter_map(TextArg::file);
    [args.model.as_path()].into_iter().chain(files).chain(texts)
}

/// Refuses to calibrate for a plan that was made with a calibration, unless another one is allowed:
/// it would be compared with that of the plan only when it is done.
fn check_calibrates_plan(args: &CompressArgs, recipe: &Recipe, goal: &Goal) -> Result<()> {
    let Goal::Given(plan) = goal else { return Ok(()) };
    let calibrates = !args.calibrate.is_empty() && recipe.way.method != Method::Svd;
    if !calibrates || args.other_calibration || plan.calibration.is_none() {
        return Ok(());
    }
    let message = "the plan was made with a calibration, and --calibrate makes another one";
    let hint = "give that calibration with --calibration (`compress --save-calibration FILE` keeps \
                it); --other-calibration allows another one";
    Err(WrongInput::with_hint(message, hint).into())
}

/// Whether a calibration is used, if there is one.
fn reads_calibration(args: &CompressArgs, recipe: &Recipe) -> bool {
    recipe.way.method != Method::Svd || args.blockwise.refine > 0
}

/// Whether the model is run, not only its weights decomposed.
fn computes(args: &CompressArgs, recipe: &Recipe) -> bool {
    let calibrates = !args.calibrate.is_empty() && reads_calibration(args, recipe);
    let by_blocks = recipe.way.is_sequential || args.blockwise.refine > 0;
    calibrates || by_blocks || distills(args, recipe)
}

/// Whether the model has to be known, to run or to have been run for a calibration.
fn needs_model(args: &CompressArgs, recipe: &Recipe) -> bool {
    let reads = args.method.calibration.is_some() && reads_calibration(args, recipe);
    computes(args, recipe) || reads
}

/// What works where the model cannot be run.
fn without_running(goal: &Goal) -> &'static str {
    match goal {
        Goal::Target(options, _) if is_size(options.target) => {
            "--no-calibration compresses by the weights alone"
        }
        Goal::Target(..) => "--method svd compresses by the weights alone",
        Goal::Given(_) => {
            "make a plan without a calibration: it is carried out by the weights alone"
        }
    }
}

/// Checks that what was typed has an effect, and the options of methods.
fn check_effects(args: &CompressArgs, recipe: &Recipe, goal: &Goal, typed: &Typed) -> Result<()> {
    let (is_sequential, calibrates) = (recipe.way.is_sequential, !args.calibrate.is_empty());
    check_blocks(&args.blockwise, is_sequential, typed)?;
    typed.check(of_method(recipe))?;
    typed.check(of_amount(&args.calibrate, &args.amount).chain([of_bos(&args.calibrate)]))?;
    if calibrates {
        check_calibrating(&args.calibrate, &args.amount, [recipe], typed)?;
    }
    let has_its_own = matches!(goal, Goal::Given(plan) if plan.calibration.is_some());
    let reads = reads_calibration(args, recipe);
    let unused = match args.plan.is_some() && args.method.method.is_none() {
        true => "the plan was made without a calibration; give a --method to use one",
        false => "--method svd does not use a calibration",
    };
    let runs = computes(args, recipe);
    let only_if_run = "only where the model is run, to calibrate or to compress block by block";
    let made = "only where a calibration is made: by default with --keep-params and --max-bytes, \
                or with --calibrate";
    let in_f32 = "only with --calibrate; blocks are compressed in f32";
    typed.check([
        min_ratio(recipe.policy),
        of_rounding(args, recipe, goal),
        rule(
            "distill",
            is_calibrated(args) && recipe.way.method == Method::TwoSided,
            "only with a calibration, and --method two-sided, sequential or best",
        ),
        rule("distill-windows", distills(args, recipe), "only with --distill"),
        rule("calibration", reads, unused),
        rule("calibrate", reads, unused),
        rule("save-calibration", calibrates, made),
        rule(
            "other-calibration",
            is_calibrated(args) && recipe.way.method != Method::Svd && has_its_own,
            "only where a plan that was made with a calibration is carried out",
        ),
        rule("no-cache", args.plan.is_none(), "nothing is measured for a given plan"),
        rule("backend", runs, only_if_run),
        rule("device", runs, only_if_run),
        rule("dtype", calibrates, if runs { in_f32 } else { only_if_run })
            .with_hint("`welore-cli export DIR --dtype TYPE` stores a model in another type"),
    ])
}

/// The rules of the options on how the factors of a plan are rounded, stored and corrected, where
/// something else than ranks alone is chosen.
fn without_factors(why: &'static str) -> [Rule; 4] {
    let options = ["rounding", "choose-storage", "distill", "distill-windows"];
    options.map(|option| rule(option, false, why))
}

fn is_calibrated(args: &CompressArgs) -> bool {
    !args.calibrate.is_empty() || args.method.calibration.is_some()
}

fn recipe_and_goal(args: &CompressArgs) -> Result<(Recipe, Goal)> {
    if let Some(path) = &args.plan {
        let plan = read_plan(path)?;
        let recipe = Recipe::for_plan(&args.method, &args.target, &plan, is_calibrated(args))?;
        return Ok((recipe, Goal::Given(plan.into())));
    }
    let Some(target) = args.goal.target() else { unreachable!("clap asks for --plan or a target") };
    let calibrated = is_calibrated(args);
    let recipe = Recipe::choose(&args.method, &args.target, Some(target), calibrated)?;
    Ok((recipe, Goal::Target(recipe.plan_options(target, &args.target)?, recipe.policy)))
}

/// Shows what a dry run would write.
fn show(args: &CompressArgs, found: &FoundModel, planned: &Planned) -> Result<()> {
    let Planned { plan, spectra, measured } = planned;
    if spectra.is_none() {
        check_plan(found.checkpoint(), plan)?;
    }
    let totals = &plan.totals;
    if args.json {
        output::print_json(&json!({
            "dry_run": true,
            "output": args.output.display().to_string(),
            "policy": plan.policy,
            "target": plan.target,
            "min_ratio": plan.min_ratio,
            "totals": totals,
        }))?;
    } else {
        print_plan(plan, &plan.table())?;
        let (parameters, bytes) = (totals.parameters_after, totals.bytes_after);
        let (parameters, bytes) = (format::count(parameters), format::bytes(bytes));
        say!("would write {}: {parameters} parameters, {bytes}", args.output.display());
    }
    measured.tell("measured");
    Ok(())
}
