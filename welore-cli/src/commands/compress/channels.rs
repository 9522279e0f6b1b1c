//! `compress --forms channels`: a dense model whose MLPs have fewer channels.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use welore_burn::calibrate::Calibration;
use welore_burn::channels::{
    ChannelGoal, ChannelPlan, ChannelReport, CurveOptions, Mlp, Widths, measure_channels, mlps,
    write_channels,
};
use welore_burn::compress::WriteOptions;
use welore_burn::files::OutputDir;
use welore_burn::linalg::Shrink;
use welore_burn::model::OpenedModel;
use welore_burn::named::Named;
use welore_burn::plan::{Candidate, Target};
use welore_burn::spectrum::selected_matrices;

use super::weighed::{check_calibration, given_or_made, of_making, say_sizes};
use super::{inputs, without_factors};
use crate::args::{CompressArgs, EngineArg, RANK_OPTIONS, Typed, rule};
use crate::devices::host;
use crate::failure::WrongInput;
use crate::shared::artifacts::{check_output, check_space, in_target};
use crate::shared::card::{name_of, write_channel_card};
use crate::shared::effects::without_engine;
use crate::shared::inputs::check_outside;
use crate::shared::measuring::budget;
use crate::shared::opening::open_known;
use crate::shared::recipe::is_possible;
use crate::shared::scratch::Scratch;
use crate::shared::selecting::of_model;
use crate::terminal::Bar;
use crate::{format, models, output};

/// Options that concern ranks and factors, beside [`RANK_OPTIONS`].
const OF_RANKS: [&str; 13] = [
    "plan",
    "err",
    "err-applied",
    "method",
    "shrink-gradients",
    "follow",
    "no-adapt-dense",
    "fit-windows",
    "refine",
    "refine-lr",
    "other-calibration",
    "probe-windows",
    "convolutions",
];

/// Runs the command.
pub fn run(mut args: CompressArgs, typed: &Typed) -> Result<()> {
    let started = Instant::now();
    check_forms(&args)?;
    let target = check(&mut args, typed)?;
    let model = models::directory_of(&args.model)?;
    let opened = open_known(&model, &host())?;
    check_output(&args.output, &model)?;
    let output = match args.dry_run {
        true => OutputDir::check_free(&args.output, args.force).map(|()| None)?,
        false => Some(OutputDir::create(&args.output, args.force)?),
    };
    check_outside(&args.output, inputs(&args))?;
    let problem = Problem::of(&args, &opened, target)?;
    let scratch = Scratch::new(!args.calibrate.is_empty() && args.save_calibration.is_none())?;
    let calibration = given_or_made(&args, typed, &model, &opened, &scratch)?;
    let plan = problem.solve(&calibration)?;
    let report = output.map(|output| problem.write(&plan, &calibration, output)).transpose()?;
    problem.tell(&plan, report.as_ref(), started.elapsed().as_secs_f64())
}

/// Refuses forms that cannot be combined yet, with what can be done instead.
fn check_forms(args: &CompressArgs) -> Result<()> {
    let refuse = |message: String, hint: &str| -> Result<()> {
        Err(WrongInput::with_hint(message, hint).into())
    };
    if args.forms.is_empty() {
        return refuse(
            "--for transformers needs --forms channels".into(),
            "transformers has no code for factors; without --for, welore reads them",
        );
    }
    if args.forms != [Candidate::Channels] {
        let names: Vec<&str> = args.forms.iter().map(Named::name).collect();
        let (given, channels) = (names.join(","), Candidate::Channels.name());
        return refuse(
            format!("--forms {given}: only `{channels}` alone, or with `pivot` or `factors`"),
            "`blocks` and `factors` go with --for welore; without --forms, matrices are dense or in the \
             form of --storage",
        );
    }
    match (args.typing.engine, args.widths) {
        (Some(EngineArg::LlamaCpp), _) => refuse(
            "--for llama.cpp: so far not with --forms".into(),
            "leave out --for; then `welore-cli compress DIR --for llama.cpp` or `export DIR --gguf` \
             makes a file of the result",
        ),
        (Some(EngineArg::Transformers), Widths::Each) => refuse(
            "--widths each: transformers has one width for the MLPs of all layers".into(),
            "leave out --for transformers, or take --widths one",
        ),
        _ => Ok(()),
    }
}

/// Checks everything that the arguments alone tell, and returns the target.
fn check(args: &mut CompressArgs, typed: &Typed) -> Result<Target> {
    let of_ranks = "only without --forms channels, which chooses widths, not ranks";
    let selects = ["include", "exclude"];
    let options = RANK_OPTIONS.into_iter().filter(|option| !selects.contains(option));
    typed.check(options.chain(OF_RANKS).map(|option| rule(option, false, of_ranks)))?;
    typed.check(["types", "bits", "no-measure", "save-types"].map(without_engine))?;
    let why = "not with --forms channels";
    let rules = [
        rule("no-calibration", false, "channels are weighed with a calibration"),
        rule("report", false, why),
        rule("no-cache", false, "costs of channels are not cached"),
    ];
    typed.check(rules.into_iter().chain(without_factors(why)).chain(of_making(args)))?;
    // A plan in a file of settings was not typed.
    let Some(target) = args.goal.target() else {
        let message = "--forms channels needs --keep-params or --max-bytes";
        return Err(WrongInput::with_hint(message, "such as --keep-params 0.9").into());
    };
    if args.method.shrink.shrink_inputs.is_some_and(|shrink| !is_possible(shrink)) {
        let message = "--shrink-inputs: must be a number that is at least 0";
        return Err(WrongInput::new(message).into());
    }
    if args.method.shrink.shrink_inputs == Some(Shrink::Data) {
        let message = "--shrink-inputs data: --forms channels takes a share";
        return Err(WrongInput::with_hint(message, "such as --shrink-inputs 0.001").into());
    }
    check_calibration(args, typed, "channels")?;
    Ok(target)
}

/// A model that is to have fewer channels.
struct Problem<'a> {
    args: &'a CompressArgs,
    opened: &'a OpenedModel,
    mlps: Vec<Mlp>,
    goal: ChannelGoal,
    curves: CurveOptions,
}

impl<'a> Problem<'a> {
    /// Refuses what the model's shapes tell, before anything is computed.
    fn of(args: &'a CompressArgs, opened: &'a OpenedModel, target: Target) -> Result<Self> {
        let checkpoint = &opened.checkpoint;
        let mlps = mlps(opened)?;
        let selection = of_model(&args.selection, opened.skeleton())?;
        // Also refuses patterns that match nothing.
        selected_matrices(checkpoint, &selection)?;
        let multiple = args.width_multiple.get();
        let goal = ChannelGoal { target, selection, multiple, widths: args.widths };
        goal.check(checkpoint, &mlps)?;
        if let Target::MaxBytes(most) = target
            && most >= checkpoint.bytes()
        {
            let (most, size) = (format::bytes(most), format::bytes(checkpoint.bytes()));
            let message =
                format!("--max-bytes {most}: no channel would be left out, the model has {size}");
            return Err(WrongInput::with_hint(message, format!("give less than {size}")).into());
        }
        if !args.dry_run {
            check_space(&args.output, checkpoint.bytes())?;
        }
        let defaults = CurveOptions::default();
        let curves = CurveOptions {
            shrink_inputs: match args.method.shrink.shrink_inputs {
                Some(Shrink::Share(share)) => share,
                // `check` refused the data.
                Some(Shrink::Data) | None => defaults.shrink_inputs,
            },
            budget: budget(&args.resources),
            ..defaults
        };
        Ok(Self { args, opened, mlps, goal, curves })
    }

    /// Measures what channels cost, and chooses widths.
    fn solve(&self, calibration: &Calibration) -> Result<ChannelPlan> {
        let checkpoint = &self.opened.checkpoint;
        let mut bar = Bar::default();
        let curves = measure_channels(checkpoint, calibration, &self.mlps, &self.curves, &mut bar)?;
        bar.finish();
        let source = name_of(&self.args.model.to_string_lossy());
        let (digest, shrink) = (calibration.digest(), self.curves.shrink_inputs);
        Ok(ChannelPlan::new(source, digest, checkpoint, &curves, shrink, &self.goal)?)
    }

    fn write(
        &self,
        plan: &ChannelPlan,
        calibration: &Calibration,
        output: OutputDir,
    ) -> Result<ChannelReport> {
        let options =
            WriteOptions { budget: self.curves.budget, shard_bytes: self.args.shards.shard_size };
        let mut bar = Bar::default();
        let report = write_channels(self.opened, plan, calibration, &output, &options, &mut bar)?;
        bar.finish();
        let (from, base) = (self.opened.checkpoint.dir(), self.args.model.to_string_lossy());
        let card = write_channel_card(output.path(), from, &base, plan, report.loss());
        in_target(card, &output)?;
        output.commit()?;
        Ok(report)
    }

    /// Says what was written, or would be where there is no report.
    fn tell(&self, plan: &ChannelPlan, report: Option<&ChannelReport>, seconds: f64) -> Result<()> {
        let output = self.args.output.display();
        let loss = report.map_or(plan.expected_loss, ChannelReport::loss);
        if self.args.json {
            return output::print_json(&json!({
                "output": output.to_string(),
                "dry_run": report.is_none(),
                "target": plan.target,
                "keep_params": plan.keep_params,
                "widths": plan.widths_of_layers(),
                "parameters_before": plan.parameters_before,
                "parameters_after": plan.parameters_after,
                "bytes_before": plan.bytes_before,
                "bytes_after": plan.bytes_after,
                "expected_loss": loss,
                "calibration": plan.calibration,
                "seconds": seconds,
            }));
        }
        say!("channels   {} in each MLP", plan.describe_widths());
        if let Some(share) = plan.keep_params {
            say!(
                "kept       {} of the parameters of the selected matrices",
                format::percent(share)
            );
        }
        let parameters = [plan.parameters_before, plan.parameters_after];
        say_sizes(parameters, [plan.bytes_before, plan.bytes_after], loss, None)?;
        let did = if report.is_some() { "wrote" } else { "would write" };
        say!("{did} {output} in {}", format::time(seconds));
        Ok(())
    }
}
