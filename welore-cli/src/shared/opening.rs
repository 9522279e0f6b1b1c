//! Opening models, also those that cannot be run here.

use std::path::Path;

use anyhow::Result;
use welore_burn::model::{FoundModel, OpenedModel, open_found};

use crate::devices::host;
use crate::failure::WrongInput;

/// A model directory for work from file to file, whatever model it is of.
pub fn open_any(dir: &Path) -> Result<FoundModel> {
    Ok(open_found(dir, &host())?)
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
