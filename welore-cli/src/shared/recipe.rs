//! What `--method`, `--policy`, `--storage` and related options mean together.

use std::path::Path;

use anyhow::Result;
use welore_burn::calibrate::Calibration;
use welore_burn::compress::{BlockwiseOptions, CompressError, RefineOptions};
use welore_burn::forms::Storage;
use welore_burn::linalg::{Shrink, Shrinkage};
use welore_burn::model::LanguageModel;
use welore_burn::plan::{Energy, PlanError, PlanOptions, RankPlan, RankPolicy, Target};
use welore_burn::spectrum::{Method, Norms, SpectrumUnit};

use crate::args::{BlockwiseArgs, MethodArgs, TargetArgs, Way};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::models::{Wanted, check_kind};

/// A way to compress, with its policy, storage and shrinkage.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// The way, by which the recipe is named.
    pub way: &'static Way,
    /// How ranks are chosen.
    pub policy: &'static dyn RankPolicy,
    /// How low-rank matrices are stored.
    pub storage: Storage,
    /// How second moments are shrunk.
    pub shrink: Shrinkage,
}

impl Recipe {
    /// A way with its default policy and storage.
    pub fn of(way: &'static Way) -> Self {
        let Way { policy, storage, .. } = *way;
        Self { way, policy, storage, shrink: Shrinkage::default() }
    }

    /// The same with the default policy for a goal. The threshold of the paper goes with its target,
    /// a share of the ranks; for a size, weights alone are better served by `energy`.
    pub fn towards(mut self, goal: Option<Target>) -> Self {
        if self.way.method == Method::Svd && goal.is_some_and(is_size) {
            self.policy = &Energy;
        }
        self
    }

    /// What the command line asks for; `goal` is `None` for a given plan, and `calibrated` states
    /// whether there is or will be a calibration. Refuses a policy that searches.
    pub fn choose(
        args: &MethodArgs,
        target: &TargetArgs,
        goal: Option<Target>,
        calibrated: bool,
    ) -> Result<Self> {
        let recipe = Self::choose_any(args, target, goal, calibrated)?;
        recipe.check_policy(calibrated)?;
        Ok(recipe)
    }

    /// The same, for a command that can search.
    pub fn choose_any(
        args: &MethodArgs,
        target: &TargetArgs,
        goal: Option<Target>,
        calibrated: bool,
    ) -> Result<Self> {
        let default = Way::of(if calibrated { Method::TwoSided } else { Method::Svd });
        let way = args.method.unwrap_or(default);
        if way.method != Method::Svd && !calibrated {
            return Err(WrongInput::with_hint(
                "this --method needs a calibration",
                "give a --calibration FILE from `welore-cli calibrate`",
            )
            .into());
        }
        let mut recipe = Self::of(way).towards(goal);
        recipe.policy = target.policy.unwrap_or(recipe.policy);
        recipe.storage = target.storage.unwrap_or(recipe.storage);
        recipe.check_unit(calibrated)?;
        let shrink = [
            ("--shrink-inputs", args.shrink.shrink_inputs, &mut recipe.shrink.input),
            ("--shrink-gradients", args.shrink.shrink_gradients, &mut recipe.shrink.output),
        ];
        for (option, given, into) in shrink {
            if given.is_some_and(|given| !is_possible(given)) {
                return refuse(format!("{option}: must be a number that is at least 0"));
            }
            *into = given.unwrap_or(*into);
        }
        Ok(recipe)
    }

    /// Checks that the policy can use what the method measures, and does not search; `calibrated` as
    /// for [`choose`](Self::choose).
    pub fn check_policy(&self, calibrated: bool) -> Result<()> {
        match self.policy.reads().searches {
            Some(_) => Err(PlanError::NotSearched { policy: self.policy.name() }.into()),
            None => self.check_unit(calibrated),
        }
    }

    fn check_unit(&self, calibrated: bool) -> Result<()> {
        let (policy, method) = (self.policy.name(), self.way.method);
        match self.policy.reads().unit {
            Some(needed) if needed == method.unit() => Ok(()),
            Some(_) if !calibrated => Err(PlanError::NotCalibrated { policy }.into()),
            Some(needed) => {
                let message = format!("policy {policy} does not go with method {}", self.way.name);
                let other = Way::of(Method::of_unit(needed)).name;
                Err(WrongInput::with_hint(message, format!("use method {other}")).into())
            }
            None => Ok(()),
        }
    }

    /// The recipe for a given plan: by default in the norms that the plan was made in. `calibrated`
    /// as for [`choose`](Self::choose).
    pub fn for_plan(
        args: &MethodArgs,
        target: &TargetArgs,
        plan: &RankPlan,
        calibrated: bool,
    ) -> Result<Self> {
        if plan.unit != SpectrumUnit::Weights && !calibrated && args.method.is_none() {
            return Err(WrongInput::with_hint(
                "the plan was made with a calibration",
                "give the same --calibration FILE, which `calibrate` or `compress --save-calibration` \
                 wrote, or --method svd",
            )
            .into());
        }
        let mut args = args.clone();
        args.method = args.method.or(Some(Way::of(Method::of_unit(plan.unit))));
        Self::choose(&args, target, None, calibrated)
    }

    /// The recipe for spectra that were measured before.
    pub fn for_spectra(target: &TargetArgs, goal: Target, unit: SpectrumUnit) -> Result<Self> {
        let args =
            MethodArgs { method: Some(Way::of(Method::of_unit(unit))), ..Default::default() };
        Self::choose(&args, target, Some(goal), true)
    }

    /// The norms in which spectra are measured.
    pub fn norms<'a>(&self, calibration: Option<&'a Calibration>) -> Result<Norms<'a>> {
        let policy = self.policy.name();
        if self.policy.reads().probes {
            match calibration.and_then(Calibration::largest_probe) {
                None => return Err(PlanError::NotProbed { policy }.into()),
                Some(largest) if largest <= 0.0 => {
                    return Err(PlanError::ZeroProbes { policy }.into());
                }
                Some(_) => {}
            }
        }
        match calibration {
            Some(calibration) => Ok(Norms::new(calibration, self.way.method, self.shrink)?),
            None => Ok(Norms::plain()),
        }
    }

    /// Checks that a calibration has the text that compressing block by block needs.
    pub fn check_text(
        &self,
        args: &BlockwiseArgs,
        calibration: Option<&Calibration>,
    ) -> Result<()> {
        let by_block = self.way.is_sequential || args.refine > 0;
        match calibration {
            Some(calibration) if by_block && calibration.is_diagonal() => {
                Err(CompressError::NoText.into())
            }
            _ => Ok(()),
        }
    }

    /// How the model is compressed block by block. `None` unless matrices correct the errors of those
    /// used before them, or blocks are refined.
    pub fn blockwise<'a>(
        &self,
        args: &BlockwiseArgs,
        calibration: Option<&'a Calibration>,
        compute: &Compute,
    ) -> Option<BlockwiseOptions<'a>> {
        let epochs = args.refine;
        if !self.way.is_sequential && epochs == 0 {
            return None;
        }
        let refine = RefineOptions { epochs, lr: args.refine_lr, ..RefineOptions::default() };
        Some(BlockwiseOptions {
            follow: if self.way.is_sequential { args.follow } else { 0.0 },
            adapt_dense: !args.no_adapt_dense,
            windows: args.fit_windows,
            refine: (epochs > 0).then_some(refine),
            at_once: compute.at_once(),
            ..BlockwiseOptions::new(calibration?)
        })
    }

    /// Plan options for a target, checked before anything is measured.
    pub fn plan_options(&self, target: Target, args: &TargetArgs) -> Result<PlanOptions> {
        let options = PlanOptions {
            min_ratio: args.ranks.min_ratio,
            rank_multiple: args.ranks.rank_multiple,
            never_grow: args.ranks.never_grow,
            storage: self.storage,
            ..args.ranks.limits.over(PlanOptions::to(target))
        };
        options.check()?;
        Ok(options)
    }
}

/// Whether second moments can be shrunk so.
pub fn is_possible(shrink: Shrink) -> bool {
    match shrink {
        Shrink::Share(share) => share.is_finite() && share >= 0.0,
        Shrink::Data => true,
    }
}

/// Whether a target is a number of parameters or bytes.
pub fn is_size(target: Target) -> bool {
    matches!(target, Target::KeepParams(_) | Target::MaxBytes(_))
}

/// The most epochs that a block is refined for.
const MOST_EPOCHS: usize = 1_000_000;

/// Checks the options of compressing block by block.
pub fn check_blockwise(args: &BlockwiseArgs) -> Result<()> {
    if !(0.0..=1.0).contains(&args.follow) {
        return refuse("--follow: must be a share in [0, 1]");
    }
    if !(args.refine_lr.is_finite() && args.refine_lr > 0.0) {
        return refuse("--refine-lr: must be a number above 0");
    }
    // As many as `train --epochs` takes.
    if args.refine > MOST_EPOCHS {
        return refuse(format!("--refine: must be at most {MOST_EPOCHS} epochs"));
    }
    if args.fit_windows == Some(0) {
        return refuse("--fit-windows: must be at least 1");
    }
    Ok(())
}

/// Refuses what was given as a calibration although it is known to be something else.
pub fn check_calibration_file(path: Option<&Path>) -> Result<()> {
    if let Some(path) = path {
        check_kind(path, Wanted::Calibration)?;
    }
    Ok(())
}

/// Opens the given calibration for a model, if any.
pub fn open_calibration(
    path: Option<&Path>,
    model: &impl LanguageModel,
) -> Result<Option<Calibration>> {
    let calibration = path.map(Calibration::open).transpose()?;
    calibration.iter().try_for_each(|calibration| calibration.check_model(model))?;
    Ok(calibration)
}

/// Refuses a calibration without gradients, for what needs them with every method.
pub fn check_gradients(calibration: &Calibration) -> Result<()> {
    if calibration.has_gradients() {
        return Ok(());
    }
    let (what, hint) = match calibration.is_diagonal() {
        true => (
            "importance matrix",
            "`welore-cli calibrate MODEL --text TEXT -o FILE` makes a calibration that has them",
        ),
        false => ("calibration", "calibrate with --gradient-windows above 0"),
    };
    let message = format!("the {what} has no gradients, which are needed here");
    Err(WrongInput::with_hint(message, hint).into())
}

fn refuse<T>(message: impl Into<String>) -> Result<T> {
    Err(WrongInput::new(message).into())
}
