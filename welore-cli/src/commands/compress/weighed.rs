//! What channels alone and channels with ranks share: the calibration that they are weighed with, and
//! what is said of sizes.

use std::path::Path;

use anyhow::Result;
use welore_burn::calibrate::Calibration;
use welore_burn::model::OpenedModel;

use super::{calibration_of, check_saved, inputs};
use crate::args::{CompressArgs, Rule, TextArg, Typed, rule};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::shared::calibrating::check_amount;
use crate::shared::effects::{of_amount, of_bos};
use crate::shared::inputs::check_not_left;
use crate::shared::recipe::{check_calibration_file, check_gradients, open_calibration};
use crate::shared::scratch::Scratch;
use crate::shared::selecting::check_patterns;
use crate::{format, memory};

/// The rules of the options on making a calibration.
pub(super) fn of_making(args: &CompressArgs) -> [Rule; 4] {
    let calibrates = !args.calibrate.is_empty() || args.method.calibration.is_none();
    let only = "only where a calibration is made";
    ["save-calibration", "backend", "device", "dtype"].map(|option| rule(option, calibrates, only))
}

/// Checks output, selection and calibration, as far as the arguments alone tell. Without a calibration
/// and without texts, the model calibrates on a text of its own. `what` is weighed by gradients.
pub(super) fn check_calibration(args: &mut CompressArgs, typed: &Typed, what: &str) -> Result<()> {
    check_not_left(&args.output, inputs(args))?;
    check_patterns(&args.selection)?;
    check_saved(args)?;
    check_calibration_file(args.method.calibration.as_deref())?;
    if args.method.calibration.is_none() && args.calibrate.is_empty() {
        args.calibrate.push(TextArg::Own);
    }
    typed.check(of_amount(&args.calibrate, &args.amount).chain([of_bos(&args.calibrate)]))?;
    if args.calibrate.is_empty() {
        return Ok(());
    }
    check_amount(&args.calibrate, &args.amount, typed)?;
    if args.amount.gradient_windows == Some(0) {
        let message = format!("--gradient-windows 0: {what} are weighed by gradients");
        return Err(WrongInput::new(message).into());
    }
    Ok(())
}

/// The calibration that was given, or the one that is made, with gradients.
pub(super) fn given_or_made(
    args: &CompressArgs,
    typed: &Typed,
    model: &Path,
    opened: &OpenedModel,
    scratch: &Scratch,
) -> Result<Calibration> {
    let calibration = match args.method.calibration.as_deref() {
        Some(file) => open_calibration(Some(file), opened.skeleton())?,
        None => {
            memory::keep_pages();
            let compute = Compute::choose(args.compute.choice())?;
            let instead = "--calibrate FILE uses a text of yours";
            let instead = (!typed.has("calibrate")).then_some(instead);
            Some(calibration_of(args, model, &compute, scratch.path(), instead)?)
        }
    };
    let Some(calibration) = calibration else { unreachable!("one was given or made") };
    check_gradients(&calibration)?;
    Ok(calibration)
}

/// Says how many parameters and bytes there were and are, and what that is expected to cost, as planned
/// and as it is stored, where that is known.
pub(super) fn say_sizes(
    parameters: [u64; 2],
    bytes: [u64; 2],
    loss: f64,
    stored: Option<f64>,
) -> Result<()> {
    let change = |[before, after]: [u64; 2]| format::percent(after as f64 / before as f64);
    let [before, after] = parameters.map(format::count);
    say!("parameters {before} -> {after} ({})", change(parameters));
    let [before, after] = bytes.map(format::bytes);
    say!("bytes      {before} -> {after} ({})", change(bytes));
    let stored = stored.map(|loss| format!(", as stored by {loss:.2e}")).unwrap_or_default();
    say!("expected   the loss rises by {loss:.2e} nats per token{stored}");
    Ok(())
}
