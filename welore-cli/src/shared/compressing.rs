//! Carrying out a plan.

use std::path::Path;

use anyhow::Result;
use burn::tensor::FloatDType;
use welore_burn::calibrate::Calibration;
use welore_burn::compress::{BlockwiseOptions, Compressor, check_calibration};
use welore_burn::model::Decoder;
use welore_burn::plan::RankPlan;
use welore_burn::spectrum::Norms;

use super::opening::open_known;
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::terminal::Bar;

/// The compressor for a plan, with the chosen norms and options.
pub fn compressor<'a>(
    plan: &'a RankPlan,
    norms: Norms<'a>,
    blockwise: Option<BlockwiseOptions<'a>>,
) -> Compressor<'a> {
    let compressor = Compressor::new(plan).with_norms(norms);
    match blockwise {
        Some(options) => compressor.with_blockwise(options),
        None => compressor,
    }
}

/// A model on its autodiff device in f32, which compressing block by block needs.
pub fn load_for_blocks(dir: &Path, compute: &Compute, bar: &mut Bar) -> Result<Decoder> {
    let opened = open_known(dir, &compute.device.clone().autodiff())?;
    Ok(opened.load(FloatDType::F32, |_| true, bar)?.model)
}

/// Refuses `--other-calibration` if it is `typed` although all plans were made with the calibration
/// that was given.
pub fn check_other<'p>(
    typed: bool,
    calibration: Option<&Calibration>,
    plans: impl IntoIterator<Item = &'p RankPlan>,
) -> Result<()> {
    let Some(calibration) = calibration.filter(|_| typed) else { return Ok(()) };
    let is_own = |plan: &RankPlan| plan.calibration.as_deref() == Some(calibration.digest());
    match plans.into_iter().all(is_own) {
        true => {
            let message = "--other-calibration: the plan was made with this calibration";
            Err(WrongInput::with_hint(message, "leave --other-calibration out").into())
        }
        false => Ok(()),
    }
}

/// Checks that the calibration of the norms was made of the plan's model, and, unless another one is
/// allowed, that it is the one that the plan was made with.
pub fn check_norms(norms: &Norms<'_>, plan: &RankPlan, other_calibration: bool) -> Result<()> {
    let Some(calibration) = norms.calibration() else { return Ok(()) };
    check_calibration(plan, calibration)?;
    match plan.calibration.as_deref() {
        Some(digest) if digest == calibration.digest() || other_calibration => Ok(()),
        Some(_) => {
            let message = "the plan was made with another calibration of this model";
            let hint = "give the calibration that the plan was made with, which `calibrate` or \
                        `compress --save-calibration` wrote; --other-calibration takes this one";
            Err(WrongInput::with_hint(message, hint).into())
        }
        None => {
            tell!("warning: the plan was made without a calibration");
            Ok(())
        }
    }
}
