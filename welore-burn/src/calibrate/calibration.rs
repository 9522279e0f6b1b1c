use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::error::CalibrationError;
use super::file::CalibrationFile;
use super::text::TextRecord;
use crate::linalg::SecondMoment;
use crate::modules::MatrixName;

/// Second moments of the inputs of matrices and of the gradients of their outputs. They are in
/// memory, or in a file from [`calibrate`](super::calibrate), which is read on demand.
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
    /// Opens a calibration file.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::NotCalibration`], [`CalibrationError::Version`], and errors of reading.
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

    /// Whether gradients were measured.
    pub fn has_gradients(&self) -> bool {
        match &self.0 {
            Source::File(file) => file.manifest().gradient_windows > 0,
            Source::Memory { outputs, .. } => !outputs.is_empty(),
        }
    }

    /// The name under which the inputs of a matrix are stored: matrices with the same inputs share
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

    /// The second moment of the inputs of a matrix.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::Foreign`], and errors of reading.
    pub fn inputs(&self, name: &MatrixName) -> Result<Cow<'_, SecondMoment>, CalibrationError> {
        match &self.0 {
            Source::File(file) => Ok(Cow::Owned(file.inputs(name)?)),
            Source::Memory { inputs, .. } => known(inputs, name),
        }
    }

    /// The second moment of the gradients of the outputs of a matrix.
    ///
    /// # Errors
    ///
    /// Those of [`Calibration::inputs`], and [`CalibrationError::NoGradients`].
    pub fn outputs(&self, name: &MatrixName) -> Result<Cow<'_, SecondMoment>, CalibrationError> {
        if !self.has_gradients() {
            return Err(CalibrationError::NoGradients);
        }
        match &self.0 {
            Source::File(file) => Ok(Cow::Owned(file.outputs(name)?)),
            Source::Memory { outputs, .. } => known(outputs, name),
        }
    }

    /// Identifies the content.
    pub fn digest(&self) -> &str {
        match &self.0 {
            Source::File(file) => file.digest(),
            Source::Memory { digest, .. } => digest,
        }
    }

    /// The windows of tokens that were read; none for a calibration in memory.
    ///
    /// # Errors
    ///
    /// Errors of reading.
    pub fn windows(&self) -> Result<Vec<Vec<u32>>, CalibrationError> {
        match &self.0 {
            Source::File(file) => file.windows(),
            Source::Memory { .. } => Ok(Vec::new()),
        }
    }

    /// The texts that the windows were taken from, in turn; none for a calibration in memory, and in
    /// files of an earlier version.
    pub fn texts(&self) -> &[TextRecord] {
        match &self.0 {
            Source::File(file) => &file.manifest().texts,
            Source::Memory { .. } => &[],
        }
    }

    /// The measured cost of factoring a matrix over the estimated cost, if it was probed.
    pub fn probe(&self, name: &MatrixName) -> Option<f64> {
        match &self.0 {
            Source::File(file) => file.probe(name),
            Source::Memory { .. } => None,
        }
    }

    /// Whether matrices were probed.
    pub fn has_probes(&self) -> bool {
        match &self.0 {
            Source::File(file) => file.has_probes(),
            Source::Memory { .. } => false,
        }
    }

    /// Checks that a matrix was calibrated in this shape, `[out, in]`.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::Foreign`].
    pub fn check_shape(
        &self,
        name: &MatrixName,
        shape: [usize; 2],
    ) -> Result<(), CalibrationError> {
        let fits = |size: usize, moments: &BTreeMap<MatrixName, SecondMoment>| {
            moments.get(name).is_none_or(|moment| moment.size() == size)
        };
        let fits = match &self.0 {
            Source::File(file) => file.shape(name)? == shape,
            Source::Memory { inputs, outputs, .. } => {
                fits(shape[1], inputs) && fits(shape[0], outputs)
            }
        };
        match fits {
            true => Ok(()),
            false => Err(CalibrationError::Foreign {
                reason: format!("`{name}` is not the {} x {} matrix here", shape[0], shape[1]),
            }),
        }
    }

    /// Checks that a matrix has the weights that were calibrated, if their digest is known.
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

/// Identifies second moments by their names and their content.
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
