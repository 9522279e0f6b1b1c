//! `compress --forms channels,pivot`: fewer channels and lower ranks within one budget of parameters.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::calibrate::Calibration;
use welore_burn::channels::{
    CHANNELS_FILE, ChannelGoal, ChannelReport, CurveOptions, JointPlan, Mlp, Widths,
    measure_channels, mlps, write_channels,
};
use welore_burn::checkpoint::PLAN_FILE;
use welore_burn::compress::{CompressReport, WriteOptions};
use welore_burn::files::{OutputDir, write_file};
use welore_burn::forms::Storage;
use welore_burn::linalg::Shrink;
use welore_burn::model::OpenedModel;
use welore_burn::plan::{Candidate, PlanOptions, Target};
use welore_burn::spectrum::{Method, Norms};

use super::telling::{factored, of_errors};
use super::weighed::{check_calibration, given_or_made, of_making, say_sizes};
use super::{inputs, or_kept, without_factors};
use crate::args::{CompressArgs, EngineArg, Typed, rule};
use crate::devices::host;
use crate::failure::WrongInput;
use crate::shared::artifacts::{check_output, check_space, in_target};
use crate::shared::card::{name_of, write_joint_card};
use crate::shared::compressing::compressor;
use crate::shared::effects::{check_blocks, min_ratio, of_measurements, without_engine};
use crate::shared::inputs::check_outside;
use crate::shared::measuring::{Known, budget, measure_within};
use crate::shared::opening::open_known;
use crate::shared::planning::{note_calibration, warn_of_prospect};
use crate::shared::recipe::Recipe;
use crate::shared::scratch::Scratch;
use crate::shared::selecting::of_model;
use crate::terminal::Bar;
use crate::{format, models, output};

/// Whether channels and ranks are asked for.
pub fn is_asked(forms: &[Candidate]) -> bool {
    let ranks = [Candidate::Factors, Candidate::Pivot];
    forms.contains(&Candidate::Channels) && forms.iter().any(|form| ranks.contains(form))
}

/// Runs the command.
pub fn run(mut args: CompressArgs, typed: &Typed) -> Result<()> {
    let started = Instant::now();
    let (recipe, options) = check(&mut args, typed)?;
    let model = models::directory_of(&args.model)?;
    let opened = open_known(&model, &host())?;
    check_output(&args.output, &model)?;
    let output = match args.dry_run {
        true => OutputDir::check_free(&args.output, args.force).map(|()| None)?,
        false => Some(OutputDir::resumable(&args.output, args.force)?),
    };
    check_outside(&args.output, inputs(&args))?;
    let makes = !args.calibrate.is_empty() && args.save_calibration.is_none();
    let scratch = Scratch::new(makes || !args.dry_run)?;
    let problem = Problem::of(&args, &opened, recipe, options, &scratch)?;
    let calibration = given_or_made(&args, typed, &model, &opened, &scratch)?;
    let norms = recipe.norms(Some(&calibration))?;
    let (mut plan, measured) = problem.solve(&calibration, norms.clone())?;
    note_calibration(&mut plan.ranks, Some(&calibration));
    warn_of_prospect(&plan.ranks, true);
    let written = match output {
        Some(output) => {
            let at = scratch.path().join("narrow");
            Some(problem.write(&plan, &calibration, norms, &at, output)?)
        }
        None => None,
    };
    problem.tell(&plan, written.as_ref(), started.elapsed().as_secs_f64())?;
    measured.tell("measured");
    Ok(())
}

/// Checks everything that the arguments alone tell, and returns how ranks are chosen.
fn check(args: &mut CompressArgs, typed: &Typed) -> Result<(Recipe, PlanOptions)> {
    let storage = storage_of(args)?;
    check_effects(args, typed)?;
    let Some(target @ Target::KeepParams(_)) = args.goal.target() else {
        let message = "--forms: channels and ranks share a budget of parameters, --keep-params";
        return Err(WrongInput::with_hint(message, "such as --keep-params 0.8").into());
    };
    let recipe = Recipe::choose(&args.method, &args.target, Some(target), true)?;
    let recipe = Recipe { storage, ..recipe };
    let needed = "channels and ranks are weighed in nats per token";
    if recipe.way.method != Method::TwoSided || recipe.way.is_sequential {
        let message = format!("--method {}: {needed}, each by itself", recipe.way.name);
        return Err(WrongInput::with_hint(message, "use --method two-sided").into());
    }
    if recipe.policy.name() != "loss" {
        let message = format!("--policy {}: {needed}", recipe.policy.name());
        return Err(WrongInput::with_hint(message, "use --policy loss").into());
    }
    share("--shrink-inputs", recipe.shrink.input)?;
    share("--shrink-gradients", recipe.shrink.output)?;
    typed.check([min_ratio(recipe.policy)])?;
    check_blocks(&args.blockwise, false, typed)?;
    check_calibration(args, typed, "channels and ranks")?;
    if !args.calibrate.is_empty() {
        typed.check(of_measurements(&[&recipe], &args.amount))?;
    }
    let options = recipe.plan_options(target, &args.target)?;
    Ok((recipe, options))
}

/// The share that an option has, which channels need.
fn share(option: &str, shrink: Shrink) -> Result<f64> {
    match shrink {
        Shrink::Share(share) => Ok(share),
        Shrink::Data => {
            let message = format!("{option} data: --forms channels takes a share");
            Err(WrongInput::with_hint(message, "such as 0.3").into())
        }
    }
}

/// How factored matrices are stored. Of one rank, pivots have fewer parameters than two factors and
/// are the same product, so they are what is chosen where both may be.
fn storage_of(args: &CompressArgs) -> Result<Storage> {
    if args.forms.contains(&Candidate::Blocks) {
        let message = "--forms: `blocks` do not go with `channels`";
        let hint = "--for welore --forms blocks,factors chooses among blocks within --max-bytes";
        return Err(WrongInput::with_hint(message, hint).into());
    }
    if let Some(engine) = args.typing.engine {
        let message = "--for: not with factors beside channels";
        let hint = match engine {
            EngineArg::Transformers => "--forms channels alone makes what transformers loads",
            _ => {
                "leave out --for; `welore-cli export DIR --dense -o OUT` or `--gguf FILE` writes \
                 dense matrices"
            }
        };
        return Err(WrongInput::with_hint(message, hint).into());
    }
    match args.forms.contains(&Candidate::Pivot) {
        true => Ok(Storage::Pivot),
        false => Ok(Storage::Factors),
    }
}

/// Refuses typed options that have no effect.
fn check_effects(args: &CompressArgs, typed: &Typed) -> Result<()> {
    typed.check(["types", "bits", "no-measure", "save-types"].map(without_engine))?;
    let why = "not with --forms channels";
    let rules = [
        rule("storage", false, "--forms names the form of factored matrices"),
        rule("refine", false, why),
        rule("convolutions", false, why),
        rule("report", false, why),
        rule("no-calibration", false, "channels and ranks are weighed with a calibration"),
    ];
    typed.check(rules.into_iter().chain(without_factors(why)).chain(of_making(args)))
}

/// A model that is to have fewer channels and lower ranks.
struct Problem<'a> {
    args: &'a CompressArgs,
    opened: &'a OpenedModel,
    mlps: Vec<Mlp>,
    goal: ChannelGoal,
    options: PlanOptions,
    curves: CurveOptions,
}

/// What was made of a model.
struct Written {
    /// Its factored matrices.
    factored: CompressReport,
    /// What everything is expected to cost as it is stored, in nats per token.
    stored_loss: Option<f64>,
}

impl<'a> Problem<'a> {
    /// Refuses what the model's shapes tell, before anything is computed.
    fn of(
        args: &'a CompressArgs,
        opened: &'a OpenedModel,
        recipe: Recipe,
        options: PlanOptions,
        scratch: &Scratch,
    ) -> Result<Self> {
        let checkpoint = &opened.checkpoint;
        let mlps = mlps(opened)?;
        let selection = of_model(&args.selection, opened.skeleton())?;
        let multiple = args.width_multiple.get();
        let goal = ChannelGoal { target: options.target, selection, multiple, widths: args.widths };
        JointPlan::check(checkpoint, &mlps, &goal, &options)?;
        if !args.dry_run {
            check_space(&args.output, checkpoint.bytes())?;
            scratch.check_room(checkpoint.bytes())?;
        }
        // The norm of ranks is that of channels, so that their costs compare.
        let curves = CurveOptions {
            shrink_inputs: share("--shrink-inputs", recipe.shrink.input)?,
            shrink_gradients: share("--shrink-gradients", recipe.shrink.output)?,
            budget: budget(&args.resources),
        };
        Ok(Self { args, opened, mlps, goal, options, curves })
    }

    /// Measures what ranks and channels cost, and chooses.
    fn solve(&self, calibration: &Calibration, norms: Norms<'_>) -> Result<(JointPlan, Known)> {
        let (checkpoint, goal) = (&self.opened.checkpoint, &self.goal);
        let (mut spectra, known) =
            measure_within(checkpoint, &goal.selection, norms, &self.args.resources)?;
        // The note goes into files that may be published.
        spectra.source = name_of(&self.args.model.to_string_lossy());
        let mut bar = Bar::default();
        let curves = measure_channels(checkpoint, calibration, &self.mlps, &self.curves, &mut bar)?;
        bar.finish();
        let shrink = self.curves.shrink_inputs;
        let plan = JointPlan::new(checkpoint, &spectra, &curves, shrink, goal, &self.options)?;
        Ok((plan, known))
    }

    /// Writes the narrower model to `narrow`, which is temporary, and from there the result: what is
    /// factored of it is as it was, so the calibration knows it. Returns what was made of it.
    fn write(
        &self,
        plan: &JointPlan,
        calibration: &Calibration,
        norms: Norms<'_>,
        narrow: &Path,
        output: OutputDir,
    ) -> Result<Written> {
        let shard_bytes = self.args.shards.shard_size;
        let narrower = match plan.is_narrower() {
            true => Some(self.narrow(plan, calibration, narrow)?),
            false => None,
        };
        let dense = narrower.as_ref().map_or(self.opened, |(opened, _)| opened);
        let mut bar = Bar::default();
        let written = compressor(&plan.ranks, norms, None)
            .with_budget(self.curves.budget)
            .with_shard_bytes(shard_bytes)
            .directory(&dense.checkpoint, &output, &mut bar);
        bar.finish();
        let (output, factored) = or_kept(output, written)?;
        let channels = narrower.as_ref().map(|(_, channels)| channels);
        let noted = plan.noted(&factored, channels);
        let files = [(CHANNELS_FILE, plan.channels.to_json()), (PLAN_FILE, noted.to_json())];
        for (file, text) in files {
            let written = write_file(output.path().join(file), text.as_bytes());
            in_target(written.map_err(Into::into), &output)?;
        }
        let (from, base) = (self.opened.checkpoint.dir(), self.args.model.to_string_lossy());
        let labels = calibration.gradient_labels().map(|(labels, _)| labels);
        let card = write_joint_card(output.path(), from, &base, plan, labels);
        in_target(card, &output)?;
        output.commit()?;
        Ok(Written { factored, stored_loss: noted.totals.stored_loss })
    }

    /// The dense model with fewer channels, in a directory that is made.
    fn narrow(
        &self,
        plan: &JointPlan,
        calibration: &Calibration,
        at: &Path,
    ) -> Result<(OpenedModel, ChannelReport)> {
        let options =
            WriteOptions { budget: self.curves.budget, shard_bytes: self.args.shards.shard_size };
        let output = OutputDir::create(at, false)?;
        let mut bar = Bar::default();
        let report =
            write_channels(self.opened, &plan.channels, calibration, &output, &options, &mut bar)?;
        bar.finish();
        output.commit()?;
        Ok((open_known(at, &host())?, report))
    }

    /// Says what was written, or would be.
    fn tell(&self, plan: &JointPlan, written: Option<&Written>, seconds: f64) -> Result<()> {
        let (channels, totals) = (&plan.channels, &plan.ranks.totals);
        if self.args.json {
            return self.print_json(plan, written, seconds);
        }
        say!("channels   {} in each MLP", channels.describe_widths());
        let are = ["is factored (an LRC)", "are factored (LRCs)"];
        say!("ranks      {}", format::some_matrices(totals.lrcs, totals.matrices, are));
        let kept = format::percent(plan.keep_params);
        say!("kept       {kept} of the parameters of the selected matrices");
        let parameters = [channels.parameters_before, totals.parameters_after];
        let bytes = [channels.bytes_before, totals.bytes_after];
        let stored = written.and_then(|written| written.stored_loss);
        say_sizes(parameters, bytes, plan.expected_loss, stored)?;
        if let Some(line) = written.and_then(|written| of_errors(&written.factored, None)) {
            say!("{line}");
        }
        let speed = plan.expected_speed;
        say!(
            "speed      expected on a CPU: {:.2}x the dense model's with many tokens at a time, \
             {:.2}x with one",
            speed.many_tokens,
            speed.one_token
        );
        if plan.is_narrower() && self.args.widths == Widths::Each {
            note!(
                "widths differ between layers: only welore reads them, and llama.cpp a GGUF file"
            );
        }
        let did = if self.args.dry_run { "would write" } else { "wrote" };
        say!("{did} {} in {}", self.args.output.display(), format::time(seconds));
        Ok(())
    }

    fn print_json(&self, plan: &JointPlan, written: Option<&Written>, seconds: f64) -> Result<()> {
        let (channels, totals) = (&plan.channels, &plan.ranks.totals);
        let factored: Vec<Value> = match written {
            Some(written) => factored(&written.factored),
            None => {
                let planned = plan.ranks.matrices.iter().filter(|matrix| matrix.is_low_rank());
                planned.map(|m| json!({ "name": m.name, "rank": m.rank })).collect()
            }
        };
        let errors = written.and_then(|written| written.factored.relative_errors());
        output::print_json(&json!({
            "output": self.args.output.display().to_string(),
            "dry_run": self.args.dry_run,
            "target": self.options.target,
            "keep_params": plan.keep_params,
            "widths": channels.widths_of_layers(),
            "factored": factored,
            "parameters_before": channels.parameters_before,
            "parameters_after": totals.parameters_after,
            "bytes_before": channels.bytes_before,
            "bytes_after": totals.bytes_after,
            "relative_error": errors.map(|[computed, _]| computed),
            "stored_error": errors.map(|[_, stored]| stored),
            "expected_loss": plan.expected_loss,
            "stored_loss": written.and_then(|written| written.stored_loss),
            "expected_speed": plan.expected_speed,
            "calibration": channels.calibration,
            "seconds": seconds,
        }))
    }
}
