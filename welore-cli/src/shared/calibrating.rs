//! Calibrating a model on a text, for `calibrate`, `compress` and `compare`.

use std::path::Path;

use anyhow::Result;
use welore_burn::calibrate::{CalibrationError, CalibrationOptions, CalibrationSummary, calibrate};
use welore_burn::model::OpenedModel;

use super::artifacts::in_file;
use super::text::TextReader;
use crate::args::{AmountArgs, TooLittleArg};
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
        let options = options(amount, compute);
        let (model, checkpoint) = (loaded.model, Some(&loaded.checkpoint));
        let done = calibrate(&model, checkpoint, &self.tokens, &options, output, &mut bar);
        bar.finish();
        about_text(done, self.text)
    }
}

/// The library's options.
pub fn options(amount: &AmountArgs, compute: &Compute) -> CalibrationOptions {
    CalibrationOptions {
        seq_len: amount.calibration_seq_len,
        windows: Some(amount.calibration_windows),
        gradient_windows: amount.gradient_windows,
        probe_windows: amount.probe_windows,
        allow_deficient: amount.too_little == TooLittleArg::Shrink,
        at_once: compute.at_once(),
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
