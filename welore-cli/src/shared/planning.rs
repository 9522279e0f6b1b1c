//! From a target to a plan, and how a plan is printed.

use std::path::Path;

use anyhow::Result;
use welore_burn::calibrate::{Calibration, CalibrationAmount};
use welore_burn::checkpoint::Checkpoint;
use welore_burn::compress::CompressReport;
use welore_burn::escape;
use welore_burn::modules::Selection;
use welore_burn::plan::{
    Energy, ExpectedSpeed, PlanError, PlanOptions, PlanTable, PolicyReads, Prospect, RankPlan,
    RankPolicy, SearchRecord, Target, make_plan,
};
use welore_burn::spectrum::{Norms, Spectra, SpectrumUnit, flat_spectra, selected_matrices};

use super::artifacts::{in_file, read_artifact};
use super::measuring::{Known, measure_within};
use super::recipe::Recipe;
use crate::args::{MethodArgs, ResourceArgs, TargetArgs};
use crate::failure::WrongInput;
use crate::models::{Wanted, check_kind};
use crate::{format, output};

/// Where a plan comes from.
#[derive(Debug)]
pub enum Goal {
    /// A plan that was made before.
    Given(Box<RankPlan>),
    /// A target to plan for, and how.
    Target(PlanOptions, &'static dyn RankPolicy),
}

/// A plan, and what was measured for it.
#[derive(Debug)]
pub struct Planned {
    /// The plan.
    pub plan: RankPlan,
    /// `None` if the plan was given.
    pub spectra: Option<Spectra>,
    /// How much of that had been measured before.
    pub measured: Known,
}

impl Goal {
    /// The goal of a command that compresses using the weights alone: a plan, a target, or nothing.
    /// Checked before any work.
    pub fn of_weights(
        plan: Option<&Path>,
        target: Option<Target>,
        args: &TargetArgs,
    ) -> Result<Option<Self>> {
        match (plan, target) {
            (Some(path), _) => {
                let plan = read_plan(path)?;
                if plan.unit != SpectrumUnit::Weights {
                    let message = format!("{}: made with a calibration", path.display());
                    let hint = "`welore-cli compress` the model with the plan and the calibration, \
                                then train what it wrote";
                    return Err(WrongInput::with_hint(message, hint).into());
                }
                Ok(Some(Self::Given(plan.into())))
            }
            (None, Some(target)) => {
                let reads = args.policy.map(|policy| (policy.name(), policy.reads()));
                if let Some((policy, PolicyReads { unit: Some(_), .. })) = reads {
                    let message = format!("--policy {policy} needs a calibration");
                    let hint =
                        "`welore-cli compress --calibration FILE` first, then train what it wrote";
                    return Err(WrongInput::with_hint(message, hint).into());
                }
                let recipe = Recipe::choose(&MethodArgs::default(), args, Some(target), false)?;
                Ok(Some(Self::Target(recipe.plan_options(target, args)?, recipe.policy)))
            }
            (None, None) => Ok(None),
        }
    }

    /// The plan; measures for it unless it was given.
    pub fn plan(
        self,
        checkpoint: &Checkpoint,
        selection: &Selection,
        norms: Norms<'_>,
        resources: &ResourceArgs,
    ) -> Result<Planned> {
        match self {
            Self::Given(plan) => {
                // How a directory was made by it before says nothing of what is made now.
                let plan = CompressReport::default().noted_in(&plan);
                Ok(Planned { plan, spectra: None, measured: Known::default() })
            }
            Self::Target(options, policy) => {
                check_limits(&options, checkpoint, selection)?;
                let calibration = norms.calibration();
                let (spectra, measured) = measure_within(checkpoint, selection, norms, resources)?;
                let mut plan = plan_for(&spectra, policy, &options)?;
                note_calibration(&mut plan, calibration);
                Ok(Planned { plan, spectra: Some(spectra), measured })
            }
        }
    }
}

/// Reads a plan that was given, in either way, and warns about it.
pub fn read_plan(path: &Path) -> Result<RankPlan> {
    let plan = plan_in(path)?;
    warn_about(&plan);
    Ok(plan)
}

/// The plan in a plan file or in a compressed model directory.
pub fn plan_in(path: &Path) -> Result<RankPlan> {
    check_kind(path, Wanted::Plan)?;
    if path.is_dir() {
        return welore_burn::plan::read_plan(path)?.ok_or_else(|| {
            let message = format!("{}: this directory has no plan", path.display());
            WrongInput::with_hint(message, "give a plan file, or what `compress` wrote").into()
        });
    }
    in_file(RankPlan::from_json(&read_artifact(path)?), path)
}

/// Checks the selection, the limits on its matrices, and that a size can be reached and is not
/// reached already, before anything is measured.
pub fn check_limits(
    options: &PlanOptions,
    checkpoint: &Checkpoint,
    selection: &Selection,
) -> Result<()> {
    options.check_matrices(&selected_matrices(checkpoint, selection)?)?;
    check_size(options, checkpoint.bytes())?;
    if let Target::KeepParams(_) | Target::MaxBytes(_) = options.target {
        // What matrices cost does not depend on their singular values.
        let spectra = flat_spectra(checkpoint, selection)?;
        if let Err(error @ PlanError::OutOfReach { .. }) = make_plan(&spectra, &Energy, options) {
            return Err(error.into());
        }
    }
    Ok(())
}

/// Refuses a size that a model of so many bytes does not exceed: nothing would be factored for it.
pub fn check_size(options: &PlanOptions, bytes: u64) -> Result<()> {
    let Target::MaxBytes(most) = options.target else { return Ok(()) };
    let sets_ranks = options.constraints.iter().any(|constraint| constraint.rank.is_some());
    if most < bytes || sets_ranks {
        return Ok(());
    }
    let (most, size) = (format::bytes(most), format::bytes(bytes));
    let message =
        format!("--max-bytes {most}: nothing would be factored, the whole model has {size}");
    Err(WrongInput::with_hint(message, format!("give less than {size}")).into())
}

/// Notes in a plan how much text its calibration was measured on, if it was made with one.
pub fn note_calibration(plan: &mut RankPlan, calibration: Option<&Calibration>) {
    let used = calibration.filter(|_| plan.calibration.is_some());
    plan.calibrated_on = used.and_then(Calibration::amount);
}

/// Makes a plan, and warns about it.
pub fn plan_for(
    spectra: &Spectra,
    policy: &dyn RankPolicy,
    options: &PlanOptions,
) -> Result<RankPlan> {
    let plan = make_plan(spectra, policy, options)?;
    oddities(&plan).chain(guesses(spectra, policy)).for_each(warn);
    Ok(plan)
}

/// Something about a plan that may be unexpected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// Factored matrices become larger.
    Growing {
        /// Their number.
        growing: usize,
        /// Number of all factored matrices.
        lrcs: usize,
    },
    /// No matrix is factored, or in blocks.
    NothingFactored,
    /// Matrices that no probe measured, for a policy that reads probes.
    Unprobed {
        /// Their number.
        matrices: usize,
    },
}

/// Why nothing is factored.
const NO_GAIN: &str = "no matrix would gain from it (with the policies welore and uniform: none \
                       loses min_ratio of its ranks)";

/// What may be unexpected about a plan.
pub fn oddities(plan: &RankPlan) -> impl Iterator<Item = Oddity> + use<> {
    let (growing, lrcs) = (plan.totals.growing, plan.totals.lrcs);
    let grows = (growing > 0).then_some(Oddity::Growing { growing, lrcs });
    let nothing = lrcs == 0 && !plan.matrices.iter().any(|matrix| matrix.form.is_packed());
    grows.into_iter().chain(nothing.then_some(Oddity::NothingFactored))
}

/// What a plan of these spectra is based on that was not measured.
pub fn guesses(spectra: &Spectra, policy: &dyn RankPolicy) -> Option<Oddity> {
    let matrices = if policy.reads().probes { spectra.unprobed() } else { 0 };
    (matrices > 0).then_some(Oddity::Unprobed { matrices })
}

/// Warns about results of a plan that may be unexpected.
pub fn warn_about(plan: &RankPlan) {
    oddities(plan).for_each(warn);
}

fn warn(oddity: Oddity) {
    match oddity {
        Oddity::Growing { growing, lrcs } => {
            let (grow, them) = match growing {
                1 => ("becomes larger, because its rank is", "it"),
                _ => ("become larger, because their ranks are", "them"),
            };
            let lrcs = format::number_of(lrcs, "LRC");
            tell!(
                "warning: {growing} of {lrcs} {grow} above mn/(m+n); --never-grow keeps {them} dense"
            );
        }
        Oddity::NothingFactored => tell!("warning: nothing is factored, because {NO_GAIN}"),
        Oddity::Unprobed { matrices } => {
            tell!("warning: {} {UNPROBED}", format::matrices(matrices));
        }
    }
}

/// What is done with the matrices of experts that no probe measured.
const UNPROBED: &str = "of experts that see none of the text of the probes: corrected by the median \
                        of the same matrix of others; more --probe-windows would measure them";

/// The same for several plans, each with its label: one line for each kind of warning.
pub fn warn_about_all(found: &[(Oddity, String)]) {
    let growing = found.iter().filter_map(|(oddity, label)| match oddity {
        Oddity::Growing { growing, lrcs } => Some(format!("{label} ({growing} of {lrcs})")),
        Oddity::NothingFactored | Oddity::Unprobed { .. } => None,
    });
    let growing: Vec<String> = growing.collect();
    if !growing.is_empty() {
        tell!(
            "warning: LRCs become larger, because their ranks are above mn/(m+n), in {}; \
             --never-grow keeps them dense",
            growing.join("; ")
        );
    }
    let nothing = found.iter().filter(|(oddity, _)| *oddity == Oddity::NothingFactored);
    let nothing: Vec<&str> = nothing.map(|(_, label)| label.as_str()).collect();
    if !nothing.is_empty() {
        tell!("warning: nothing is factored in {}, because {NO_GAIN}", nothing.join("; "));
    }
    // It is the same for all plans of a calibration.
    let unprobed = found.iter().find(|(oddity, _)| matches!(oddity, Oddity::Unprobed { .. }));
    if let Some((oddity, _)) = unprobed {
        warn(*oddity);
    }
}

/// Warns if a plan is expected to do harm. For commands that are about to carry it out or to print
/// it, when nothing can be refused any more. `runs` is whether the model can be run, to calibrate.
pub fn warn_of_prospect(plan: &RankPlan, runs: bool) {
    let Some(prospect) = plan.prospect() else { return };
    let advice = match prospect {
        Prospect::WorseUncalibrated { .. } | Prospect::RuinedUncalibrated { .. } if runs => {
            "; give --calibrate self to `compress`"
        }
        _ => "",
    };
    tell!("warning: without tuning, this {prospect}{advice}");
}

/// The plan's totals, as text without names.
pub fn describe(plan: &RankPlan) -> String {
    let t = &plan.totals;
    let change = |before: u64, after: u64| format::percent(after as f64 / before as f64);
    let is_factored = ["is factored (an LRC)", "are factored (LRCs)"];
    let whose = match t.matrices {
        1 => "its parameters".into(),
        all => format!("the parameters of all {all}"),
    };
    let (planned, removed) = (format::percent(t.err), format::percent(t.err_applied));
    let ranks = match planned == removed {
        true => format!("{removed} of all are removed (ERR)"),
        false => {
            format!(
                "{removed} of all are removed, in factored matrices; the planned ERR is {planned}"
            )
        }
    };
    format!(
        "{}; {} of {whose} are kept\n\
         ranks      {ranks}\n\
         parameters {} -> {} ({})\n\
         bytes      {} -> {} ({})\n\
         speed      {}{}{}{}",
        format::some_matrices(t.lrcs, t.matrices, is_factored),
        format::percent(t.keep_params),
        format::count(t.parameters_before),
        format::count(t.parameters_after),
        change(t.parameters_before, t.parameters_after),
        format::bytes(t.bytes_before),
        format::bytes(t.bytes_after),
        change(t.bytes_before, t.bytes_after),
        speed_of(t.expected_speed),
        calibrated(plan).unwrap_or_default(),
        adapted(plan).unwrap_or_default(),
        plan.search.as_ref().map(found_by).unwrap_or_default(),
    )
}

/// How much text the plan was made on, if that is known, and whether it was carried out in the order of
/// use, as another line.
fn calibrated(plan: &RankPlan) -> Option<String> {
    let Some(CalibrationAmount { windows, gradient_windows, seq_len }) = plan.calibrated_on else {
        // Plans of earlier versions do not state it, nor those that were made without a calibration.
        return plan.sequential.then(|| "\norder      made in the order of use".into());
    };
    let order = if plan.sequential { "; made in the order of use" } else { "" };
    let windows = format::number_of(windows, "window");
    Some(format!(
        "\ncalibrated on {windows} of {seq_len} tokens, gradients on {gradient_windows} of \
         them{order}"
    ))
}

/// How many dense matrices have other entries, if any do, as another line.
fn adapted(plan: &RankPlan) -> Option<String> {
    let dense = plan.matrices.iter().filter(|matrix| matrix.is_dense()).count();
    let adapted = plan.matrices.iter().filter(|matrix| matrix.adapted).count();
    let of_dense = format!("{adapted} of {} that stay dense", format::matrices(dense));
    let why = "with other entries, which correct the errors of those before them";
    (adapted > 0).then(|| format!("\nadapted    {of_dense}, {why}"))
}

/// How the ranks were found, as another line.
fn found_by(search: &SearchRecord) -> String {
    let SearchRecord { evaluations, windows: [windows, tokens], start_kl, kl, .. } = search;
    let multiplied = search.multipliers.iter().map(|(group, by)| format!("{group} x{by:.2}"));
    let slope = search.slope.map(|slope| format!("depth {slope:+.2}"));
    let weights: Vec<String> = multiplied.chain(slope).collect();
    format!(
        "\nsearch     KL divergence {start_kl:.4} -> {kl:.4} nats per token, the best of {} on {} \
         of {tokens} tokens: {}",
        format::number_of(*evaluations, "plan"),
        format::number_of(*windows, "window"),
        escape::terminal(&weights.join(", ")),
    )
}

/// How fast a compressed model is expected to be.
fn speed_of(expected: ExpectedSpeed) -> String {
    let ExpectedSpeed { many_tokens, one_token } = expected;
    format!(
        "expected on a CPU: {many_tokens:.2}x the dense model's with many tokens at a time, \
         {one_token:.2}x with one"
    )
}

/// Prints the table of a plan, and its totals.
pub fn print_plan(plan: &RankPlan, table: &PlanTable<'_>) -> Result<()> {
    output::print_block(&format!("{table}\n"))?;
    if let Some(threshold) = plan.threshold {
        say!("{} threshold {threshold:.6}", plan.policy);
    }
    output::print_block(&describe(plan))
}
