//! What `--effort` decides in `compress`, beside how much is calibrated on.

use anyhow::Result;
use welore_burn::spectrum::Method;

use super::is_calibrated;
use crate::args::{CompressArgs, Typed};
use crate::shared::effects::of_effort;

/// Puts what the effort means in the place of options that were not given. Refuses one that decides
/// nothing.
pub(super) fn settle(args: &mut CompressArgs, typed: &Typed) -> Result<()> {
    let changes = is_calibrated(args) && args.goal.target().is_some() && settle_method(args);
    typed.check([of_effort(&args.calibrate, &args.amount, changes)])
}

/// The same where ranks are chosen for a target with a calibration. Returns whether anything changed.
fn settle_method(args: &mut CompressArgs) -> bool {
    let effort = args.amount.effort;
    let before = (args.method.method, args.distill);
    args.method.method = effort.method(args.method.method);
    // Without a method, it is two-sided.
    let has_gradients = args.method.method.is_none_or(|way| way.method == Method::TwoSided);
    args.distill |= effort.distills && has_gradients;
    before != (args.method.method, args.distill)
}
