use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::error::CalibrationError;
use super::file::CalibrationFile;
use crate::linalg::SecondMoment;
use crate::modules::MatrixName;

/// Second moments of the inputs of matrices, and of the gradients of their outputs: in a file
/// that [`calibrate`](super::calibrate) wrote, of which only what is asked for is read, or in
/// memory.
#[derive(Debug)]
pub struct Calibration(Source);

#[derive(Debug)]
enum Source {
    File(Box<CalibrationFile>),
    Memory {
        inputs: BTreeMap<MatrixName, SecondMoment>,
        outputs: BTreeMap<MatrixName, SecondMoment>,
        digest: String,
    },
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
        inputs: BTreeMap<MatrixName, SecondMoment>,
        outputs: BTreeMap<MatrixName, SecondMoment>,
    ) -> Result<Self, CalibrationError> {
        for (what, moments) in [("inputs", &inputs), ("gradients", &outputs)] {
            if let Some((name, _)) = moments.iter().find(|(_, moment)| !moment.is_finite()) {
                return Err(CalibrationError::NotFinite { what, name: name.clone() });
            }
        }
        let digest = digest_of(&inputs, &outputs);
        Ok(Self(Source::Memory { inputs, outputs, digest }))
    }

    /// Whether there are gradients.
    pub fn has_gradients(&self) -> bool {
        match &self.0 {
            Source::File(file) => file.manifest().gradient_windows > 0,
            Source::Memory { outputs, .. } => !outputs.is_empty(),
        }
    }

    /// The matrix under whose name the inputs of a matrix are kept: matrices that see the same share
    /// them.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::Foreign`].
    pub fn inputs_of<'a>(
        &'a self,
        name: &'a MatrixName,
    ) -> Result<&'a MatrixName, CalibrationError> {
        match &self.0 {
            Source::File(file) => file.inputs_of(name),
            Source::Memory { .. } => Ok(name),
        }
    }

    /// Second moments of the inputs of a matrix.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::Foreign`], and those of reading.
    pub fn inputs(&self, name: &MatrixName) -> Result<Cow<'_, SecondMoment>, CalibrationError> {
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
    pub fn outputs(&self, name: &MatrixName) -> Result<Cow<'_, SecondMoment>, CalibrationError> {
        if !self.has_gradients() {
            return Err(CalibrationError::NoGradients);
        }
        match &self.0 {
            Source::File(file) => Ok(Cow::Owned(file.outputs(name)?)),
            Source::Memory { outputs, .. } => known(outputs, name),
        }
    }

    /// Identifies what was measured.
    pub fn digest(&self) -> &str {
        match &self.0 {
            Source::File(file) => file.digest(),
            Source::Memory { digest, .. } => digest,
        }
    }

    /// The windows of tokens that were read, in a file.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn windows(&self) -> Result<Vec<Vec<u32>>, CalibrationError> {
        match &self.0 {
            Source::File(file) => file.windows(),
            Source::Memory { .. } => Ok(Vec::new()),
        }
    }

    /// What a probe of a matrix cost, over what was expected, if it was probed.
    pub fn probe(&self, name: &MatrixName) -> Option<f64> {
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
    pub fn check(&self, name: &MatrixName, digest: &str) -> Result<(), CalibrationError> {
        match &self.0 {
            Source::File(file) => file.check(name, digest),
            Source::Memory { .. } => Ok(()),
        }
    }
}

fn known<'a>(
    moments: &'a BTreeMap<MatrixName, SecondMoment>,
    name: &MatrixName,
) -> Result<Cow<'a, SecondMoment>, CalibrationError> {
    let foreign = || CalibrationError::Foreign { reason: format!("it has no `{name}`") };
    moments.get(name).map(Cow::Borrowed).ok_or_else(foreign)
}

/// Identifies moments by their names and their content.
fn digest_of(
    inputs: &BTreeMap<MatrixName, SecondMoment>,
    outputs: &BTreeMap<MatrixName, SecondMoment>,
) -> String {
    let mut hasher = blake3::Hasher::new();
    for (what, moments) in [("inputs", inputs), ("outputs", outputs)] {
        for (name, moment) in moments {
            let count = moment.count();
            hasher.update(format!("{what} {count} {}\n", name.as_str()).as_bytes());
            for entry in moment.packed() {
                hasher.update(&entry.to_le_bytes());
            }
        }
    }
    hasher.finalize().to_hex().to_string()
}
