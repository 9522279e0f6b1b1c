//! Opening models, also those that cannot be run here, and saying what is unusual about them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use burn::tensor::Device;
use welore_burn::checkpoint::Checkpoint;
use welore_burn::forms::Storage;
use welore_burn::model::{FoundModel, OpenedModel, open_found, open_model};
use welore_burn::modules::MatrixName;
use welore_burn::named::Named;
use welore_burn::plan::RankPlan;

use crate::args::ConvolutionArgs;
use crate::devices::host;
use crate::failure::WrongInput;

/// A model directory whose model is to run.
pub fn open_known(dir: impl AsRef<Path>, device: &Device) -> Result<OpenedModel> {
    let opened = open_model(dir, device)?;
    tell_remarks(&opened.checkpoint);
    Ok(opened)
}

/// A model directory for work from file to file, whatever model it is of.
pub fn open_any(dir: &Path) -> Result<FoundModel> {
    let found = open_found(dir, &host())?;
    tell_remarks(found.checkpoint());
    Ok(found)
}

/// The same, with all convolutions as matrices if that is asked for.
pub fn open_asked(dir: &Path, args: ConvolutionArgs) -> Result<FoundModel> {
    let found = open_any(dir)?;
    if !args.convolutions {
        return Ok(found);
    }
    let found = found.with_convolutions(|_| true);
    let checkpoint = found.checkpoint();
    let is_dense = |name: &MatrixName| checkpoint.meta(&name.weight()).is_some();
    if checkpoint.convolutions().any(is_dense) {
        tell_remarks(checkpoint);
        return Ok(found);
    }
    let message = format!("--convolutions: {} has none that is a matrix", dir.display());
    let hint = "it is for weights `[out, in, kernel]` of a model that is not known here, with several \
                inputs for each output; leave it out";
    Err(WrongInput::with_hint(message, hint).into())
}

/// The same, with the convolutions as matrices that a plan has.
pub fn open_planned(dir: &Path, plan: &RankPlan) -> Result<FoundModel> {
    let planned: BTreeSet<&MatrixName> = plan.matrices.iter().map(|matrix| &matrix.name).collect();
    let found = open_any(dir)?.with_convolutions(|name| planned.contains(name));
    tell_remarks(found.checkpoint());
    Ok(found)
}

/// Refuses to store convolutions in another way than in two factors.
pub fn check_stored(args: ConvolutionArgs, storage: Storage) -> Result<()> {
    if !args.convolutions || storage == Storage::Factors {
        return Ok(());
    }
    let message = format!("--storage {}: not with --convolutions", storage.name());
    let hint = "--storage factors stores each convolution as two";
    Err(WrongInput::with_hint(message, hint).into())
}

/// The model that `what` needs to run, if it can be. `hint` says what works without that.
pub fn to_run<'f>(found: &'f FoundModel, what: &str, hint: &str) -> Result<&'f OpenedModel> {
    match found {
        FoundModel::Familiar(model) => Ok(model),
        FoundModel::Unfamiliar(model) => {
            let (dir, why) = (model.checkpoint.dir().display(), &model.why);
            let message = format!("{dir}: {why}, so it cannot be run, and {what} needs that");
            Err(WrongInput::with_hint(message, hint).into())
        }
    }
}

/// What has been said: commands open the same model several times.
static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn tell_remarks(checkpoint: &Checkpoint) {
    for remark in checkpoint.remarks() {
        let told = format!("{}: {remark}", checkpoint.dir().display());
        if TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(told.clone()) {
            note!("{told}");
        }
    }
}
