use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::error::CalibrationError;
use super::file::CalibrationFile;
use crate::linalg::SecondMoment;

/// Second moments of the inputs of matrices, and of the gradients of their outputs: in a file
/// that [`calibrate`](super::calibrate) wrote, of which only what is asked for is read, or in
/// memory.
#[derive(Debug)]
pub struct Calibration(Source);

#[derive(Debug)]
enum Source {
    File(Box<CalibrationFile>),
    Memory { inputs: BTreeMap<String, SecondMoment>, outputs: BTreeMap<String, SecondMoment> },
}

impl Calibration {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::NotCalibration`], [`CalibrationError::Version`], and those of reading.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CalibrationError> {
        Ok(Self(Source::File(Box::new(CalibrationFile::open(path.as_ref())?))))
    }

    pub(super) fn in_memory(
        inputs: BTreeMap<String, SecondMoment>,
        outputs: BTreeMap<String, SecondMoment>,
    ) -> Result<Self, CalibrationError> {
        for (what, moments) in [("inputs", &inputs), ("gradients", &outputs)] {
            if let Some((name, _)) = moments.iter().find(|(_, moment)| !moment.is_finite()) {
                return Err(CalibrationError::NotFinite { what, name: name.clone() });
            }
        }
        Ok(Self(Source::Memory { inputs, outputs }))
    }

    /// Whether there are gradients.
    pub fn has_gradients(&self) -> bool {
        match &self.0 {
            Source::File(file) => file.manifest().gradient_blocks > 0,
            Source::Memory { outputs, .. } => !outputs.is_empty(),
        }
    }

    /// Second moments of the inputs of a matrix.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::Foreign`], and those of reading.
    pub fn inputs(&self, name: &str) -> Result<Cow<'_, SecondMoment>, CalibrationError> {
        match &self.0 {
            Source::File(file) => Ok(Cow::Owned(file.inputs(name)?)),
            Source::Memory { inputs, .. } => known(inputs, name),
        }
    }

    /// Second moments of the gradients of the outputs of a matrix.
    ///
    /// # Errors
    ///
    /// As [`Calibration::inputs`], and [`CalibrationError::NoGradients`].
    pub fn outputs(&self, name: &str) -> Result<Cow<'_, SecondMoment>, CalibrationError> {
        if !self.has_gradients() {
            return Err(CalibrationError::NoGradients);
        }
        match &self.0 {
            Source::File(file) => Ok(Cow::Owned(file.outputs(name)?)),
            Source::Memory { outputs, .. } => known(outputs, name),
        }
    }

    /// Identifies what was measured; none in memory.
    pub fn digest(&self) -> Option<&str> {
        match &self.0 {
            Source::File(file) => Some(file.digest()),
            Source::Memory { .. } => None,
        }
    }

    /// The blocks of tokens that were read, in a file.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn blocks(&self) -> Result<Vec<Vec<u32>>, CalibrationError> {
        match &self.0 {
            Source::File(file) => file.blocks(),
            Source::Memory { .. } => Ok(Vec::new()),
        }
    }

    /// What a probe of a matrix cost, over what was expected, if it was probed.
    pub fn probe(&self, name: &str) -> Option<f64> {
        match &self.0 {
            Source::File(file) => file.probe(name),
            Source::Memory { .. } => None,
        }
    }

    /// Checks that a matrix is the one that was calibrated, where that is known.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::Foreign`].
    pub fn check(&self, name: &str, digest: &str) -> Result<(), CalibrationError> {
        match &self.0 {
            Source::File(file) => file.check(name, digest),
            Source::Memory { .. } => Ok(()),
        }
    }
}

fn known<'a>(
    moments: &'a BTreeMap<String, SecondMoment>,
    name: &str,
) -> Result<Cow<'a, SecondMoment>, CalibrationError> {
    let foreign = || CalibrationError::Foreign { reason: format!("it has no `{name}`") };
    moments.get(name).map(Cow::Borrowed).ok_or_else(foreign)
}
