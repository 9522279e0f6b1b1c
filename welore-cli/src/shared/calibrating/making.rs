//! A calibration that a command makes before its own work.

use std::path::Path;

use anyhow::Result;
use welore_burn::calibrate::{Calibration, OwnTextOptions};

use super::CalibrationWork;
use crate::args::{AmountArgs, TextArg};
use crate::devices::Compute;
use crate::format;
use crate::shared::opening::open_known;

/// A calibration to make.
#[derive(Debug, Clone, Copy)]
pub struct Making<'a> {
    /// The model's directory.
    pub model: &'a Path,
    /// What to calibrate on.
    pub texts: &'a [TextArg],
    /// How much of that.
    pub amount: &'a AmountArgs,
    /// Where the user wants to keep it.
    pub kept: Option<&'a Path>,
    /// What else can be done, where nobody asked for a calibration; `None` if somebody did.
    pub instead: Option<&'a str>,
}

impl Making<'_> {
    /// Makes it in `file`, unless it is kept elsewhere. `fate` says what becomes of it there.
    pub fn make(&self, compute: &Compute, file: &Path, fate: &str) -> Result<Calibration> {
        let opened = open_known(self.model, &compute.device.clone().autodiff())?;
        let mut work = CalibrationWork::new(opened, self.texts, self.amount, None, compute)?;
        if self.kept.is_some() {
            work = work.resumable();
        }
        let output = self.kept.unwrap_or(file);
        // Nothing is promised that is then refused.
        work.check(output)?;
        if let Some((own, instead)) = work.own().zip(self.instead) {
            tell_default(own, instead);
        }
        if self.kept.is_none() {
            note!("{fate}");
        }
        work.run(compute, output)?;
        if self.kept.is_some() {
            note!("wrote {}", output.display());
        }
        Ok(Calibration::open(output)?)
    }
}

/// Says what is done first by default, and what else can be.
fn tell_default(own: &OwnTextOptions, instead: &str) {
    note!(
        "the model first writes a text of its own to calibrate on, {} of {} tokens; {instead}",
        format::number_of(own.samples, "sample"),
        own.length,
    );
}
