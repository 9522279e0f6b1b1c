//! Calibrating a model on a text, for `calibrate`, `compress` and `compare`.

use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Result;
use welore_burn::calibrate::{CalibrationError, CalibrationOptions, CalibrationSummary, calibrate};
use welore_burn::model::OpenedModel;

use super::artifacts::in_file;
use super::text::TextReader;
use crate::args::{AmountArgs, TooLittleArg, Typed, rule};
use crate::devices::Compute;
use crate::terminal::Bar;

/// A model opened on its autodiff device, and the text to calibrate it on.
#[derive(Debug)]
pub struct CalibrationWork<'a> {
    /// The model.
    pub opened: OpenedModel,
    /// The text's file.
    pub text: &'a Path,
    /// The text as tokens.
    pub tokens: Vec<u32>,
}

impl<'a> CalibrationWork<'a> {
    /// Tokenizes the text for a model.
    pub fn new(opened: OpenedModel, text: &'a Path) -> Result<Self> {
        let reader = TextReader::open(opened.checkpoint.dir(), &opened.config)?;
        Ok(Self { tokens: reader.read(text)?, opened, text })
    }

    /// Calibrates the model.
    pub fn run(
        self,
        amount: &AmountArgs,
        compute: &Compute,
        output: &Path,
    ) -> Result<CalibrationSummary> {
        let mut bar = Bar::default();
        let loaded = self.opened.load(compute.dtype, |_| false, &mut bar)?;
        let options = options(amount, compute.at_once());
        let (model, checkpoint) = (loaded.model, Some(&loaded.checkpoint));
        let done = calibrate(&model, checkpoint, &self.tokens, &options, output, &mut bar);
        bar.finish();
        about_text(done, self.text)
    }
}

/// Checks how much is to be read, before the text is.
pub fn check_amount(amount: &AmountArgs, typed: &Typed) -> Result<()> {
    options(amount, NonZeroUsize::MIN).check()?;
    let probes = rule("probe-windows", amount.gradient_windows > 0, "needs --gradient-windows");
    typed.check([probes])
}

/// The library's options.
pub fn options(amount: &AmountArgs, at_once: NonZeroUsize) -> CalibrationOptions {
    CalibrationOptions {
        seq_len: amount.calibration_seq_len,
        windows: Some(amount.calibration_windows),
        gradient_windows: amount.gradient_windows,
        probe_windows: amount.probe_windows,
        allow_deficient: amount.too_little == TooLittleArg::Shrink,
        at_once,
    }
}

/// Names the text in the errors that are about it.
pub fn about_text<T>(result: Result<T, CalibrationError>, text: &Path) -> Result<T> {
    match result {
        Err(
            error @ (CalibrationError::TooShort { .. } | CalibrationError::TooLittleText { .. }),
        ) => in_file(Err(error), text),
        other => Ok(other?),
    }
}
