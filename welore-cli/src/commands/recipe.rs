//! What `--method`, `--policy`, `--storage` and their likes mean together.

use std::path::Path;

use anyhow::Result;
use welore_burn::calibrate::Calibration;
use welore_burn::fit::{FitOptions, RefineOptions};
use welore_burn::linalg::Shrinkage;
use welore_burn::plan::{PlanOptions, RankPlan, Storage, Target};
use welore_burn::spectrum::{Method, Norms, SpectrumUnit};

use crate::args::{FitArgs, MethodArg, MethodArgs, Policy, TargetArgs};
use crate::devices::Compute;
use crate::failure::WrongInput;

/// A way to compress, with everything that goes with it.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// The method as it is called.
    pub method: MethodArg,
    /// How ranks are chosen.
    pub policy: Policy,
    /// How factored matrices are stored.
    pub storage: Storage,
    /// Of second moments.
    pub shrink: Shrinkage,
}

impl Recipe {
    /// A method with what goes with it.
    pub fn of(method: MethodArg) -> Self {
        let policy = match method {
            MethodArg::Svd => Policy::Welore,
            MethodArg::Whitened => Policy::Energy,
            MethodArg::TwoSided | MethodArg::Sequential | MethodArg::Best => Policy::Loss,
        };
        let storage = if method == MethodArg::Svd { Storage::Factors } else { Storage::Pivot };
        Self { method, policy, storage, shrink: Shrinkage::default() }
    }

    /// What the command line asks for; `calibrated` if there is or will be a calibration.
    pub fn choose(args: &MethodArgs, target: &TargetArgs, calibrated: bool) -> Result<Self> {
        let default = if calibrated { MethodArg::TwoSided } else { MethodArg::Svd };
        let method = args.method.unwrap_or(default);
        if method != MethodArg::Svd && !calibrated {
            return refuse(
                "this --method needs a calibration",
                "give --calibration FILE, which `welore-cli calibrate` writes",
            );
        }
        let mut recipe = Self::of(method);
        recipe.policy = target.policy.unwrap_or(recipe.policy);
        recipe.storage = target.storage.map_or(recipe.storage, Storage::from);
        let shrink = [
            ("--shrink-inputs", args.shrink_inputs, &mut recipe.shrink.input),
            ("--shrink-gradients", args.shrink_gradients, &mut recipe.shrink.output),
        ];
        for (option, given, into) in shrink {
            if let Some(value) = given {
                if !(value.is_finite() && value >= 0.0) {
                    return refuse(&format!("{option}: must be a number of at least 0"), "");
                }
                *into = value;
            }
        }
        Ok(recipe)
    }

    /// The recipe for a plan that is given: its norms are those it was made in.
    pub fn for_plan(args: &MethodArgs, target: &TargetArgs, plan: &RankPlan) -> Result<Self> {
        let calibrated = args.calibration.is_some();
        if plan.unit != SpectrumUnit::Weights && !calibrated && args.method.is_none() {
            return refuse(
                "the plan was made with a calibration",
                "give the same --calibration FILE, or --method svd",
            );
        }
        let mut args = args.clone();
        args.method = args.method.or(Some(match plan.unit {
            SpectrumUnit::Weights => MethodArg::Svd,
            SpectrumUnit::Inputs => MethodArg::Whitened,
            SpectrumUnit::Loss => MethodArg::TwoSided,
        }));
        Self::choose(&args, target, calibrated)
    }

    /// The norms in which spectra are measured.
    pub fn norms<'a>(&self, calibration: Option<&'a Calibration>) -> Result<Norms<'a>> {
        let method = match self.method {
            MethodArg::Svd => Method::Svd,
            MethodArg::Whitened => Method::Whitened,
            MethodArg::TwoSided | MethodArg::Sequential | MethodArg::Best => Method::TwoSided,
        };
        match calibration {
            Some(calibration) => Ok(Norms::new(calibration, method, self.shrink)?),
            None => Ok(Norms::plain()),
        }
    }

    /// How factors are fitted block after block, if they are: where they follow what the blocks
    /// before leave, or are refined.
    pub fn fit(&self, args: &FitArgs, compute: &Compute) -> Option<FitOptions> {
        let sequential = self.method == MethodArg::Sequential;
        let epochs = args.refine;
        if !sequential && epochs == 0 {
            return None;
        }
        let refine = RefineOptions { epochs, lr: args.refine_lr, ..RefineOptions::default() };
        Some(FitOptions {
            shrink: self.shrink,
            follow: if sequential { args.follow } else { 0.0 },
            blocks: args.fit_blocks,
            refine: (epochs > 0).then_some(refine),
            at_once: compute.at_once(),
        })
    }

    /// Plan options for a target, checked before anything is measured.
    pub fn plan_options(&self, goal: Target, target: &TargetArgs) -> Result<PlanOptions> {
        let options = PlanOptions {
            target: goal,
            min_ratio: target.min_ratio,
            rank_multiple: target.rank_multiple,
            never_grow: target.never_grow,
            storage: self.storage,
        };
        options.check()?;
        Ok(options)
    }
}

/// Checks the options of fitting.
pub fn check_fit(args: &FitArgs) -> Result<()> {
    if !(0.0..=1.0).contains(&args.follow) {
        return refuse("--follow: must be a share in [0, 1]", "");
    }
    if !(args.refine_lr.is_finite() && args.refine_lr > 0.0) {
        return refuse("--refine-lr: must be a number above 0", "");
    }
    if args.fit_blocks == Some(0) {
        return refuse("--fit-blocks: must be at least 1", "");
    }
    Ok(())
}

/// Opens the calibration that was given, if one was.
pub fn open_calibration(path: Option<&Path>) -> Result<Option<Calibration>> {
    Ok(path.map(Calibration::open).transpose()?)
}

fn refuse<T>(message: &str, hint: &str) -> Result<T> {
    let hint = (!hint.is_empty()).then(|| hint.into());
    Err(WrongInput { message: message.into(), hint }.into())
}
