use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use super::error::CalibrationError;
use super::file::CalibrationFile;
use super::imatrix::ImportanceMatrix;
use super::labels::GradientLabels;
use super::options::CalibrationAmount;
use super::text::TextRecord;
use crate::linalg::SecondMoment;
use crate::model::LanguageModel;
use crate::modules::MatrixName;

/// Second moments of the inputs of matrices and of the gradients of their outputs. They are in
/// memory, or in a file from [`calibrate`](super::calibrate), which is read on demand.
///
/// An importance matrix of llama.cpp is a calibration of which only the diagonals of the second
/// moments of inputs are known.
#[derive(Debug)]
pub struct Calibration(Source);

#[derive(Debug)]
enum Source {
    File(Box<CalibrationFile>),
    Imatrix(Box<ImportanceMatrix>),
    Memory {
        inputs: BTreeMap<MatrixName, SecondMoment>,
        outputs: BTreeMap<MatrixName, SecondMoment>,
        digest: String,
    },
}

impl Calibration {
    /// Opens a calibration file, or an importance matrix of llama.cpp: a GGUF file or one of the
    /// format before, which are told by their first bytes.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::NotCalibration`], [`CalibrationError::Version`],
    /// [`CalibrationError::NotImatrix`], [`CalibrationError::ImatrixEntry`], and errors of reading.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CalibrationError> {
        let path = path.as_ref();
        Ok(Self(match ImportanceMatrix::open(path)? {
            Some(matrix) => Source::Imatrix(Box::new(matrix)),
            None => Source::File(Box::new(CalibrationFile::open(path)?)),
        }))
    }

    /// Checks what can be checked of an importance matrix, which has no digests of weights: that
    /// all of its matrices are in the model. Other calibrations are checked where they are used.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::Foreign`].
    pub fn check_model(&self, model: &impl LanguageModel) -> Result<(), CalibrationError> {
        let Source::Imatrix(matrix) = &self.0 else { return Ok(()) };
        let matrices = model.matrices();
        let names: Vec<&MatrixName> = matrices.iter().map(|matrix| &matrix.name).collect();
        matrix.check_names(&names)
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
            Source::Imatrix(_) => false,
            Source::Memory { outputs, .. } => !outputs.is_empty(),
        }
    }

    /// Whether it is known how much tokens differ, by which second moments can be shrunk; not in files of
    /// earlier versions, and importance matrices.
    pub fn knows_spread(&self) -> bool {
        match &self.0 {
            Source::File(file) => file.manifest().has_spread(),
            Source::Imatrix(_) => false,
            Source::Memory { inputs, outputs, .. } => {
                inputs.values().chain(outputs.values()).all(|moment| moment.mean_fourth().is_some())
            }
        }
    }

    /// The error of a method that needs gradients, for a calibration that has none.
    pub(crate) fn without_gradients(&self) -> CalibrationError {
        match &self.0 {
            Source::Imatrix(matrix) => {
                CalibrationError::ImatrixGradients { path: matrix.path().into() }
            }
            _ => CalibrationError::NoGradients,
        }
    }

    /// Which labels the gradients are for, and the seed with which they were drawn if they are the
    /// model's own; `None` without gradients, and for a calibration in memory.
    pub fn gradient_labels(&self) -> Option<(GradientLabels, Option<u64>)> {
        let Source::File(file) = &self.0 else { return None };
        let manifest = file.manifest();
        let labels = (manifest.gradient_labels, manifest.label_seed);
        (manifest.gradient_windows > 0).then_some(labels)
    }

    /// How much text it was measured on; `None` for an importance matrix, and for a calibration in
    /// memory.
    pub fn amount(&self) -> Option<CalibrationAmount> {
        let Source::File(file) = &self.0 else { return None };
        let manifest = file.manifest();
        Some(CalibrationAmount {
            windows: manifest.windows,
            gradient_windows: manifest.gradient_windows,
            seq_len: manifest.seq_len,
        })
    }

    /// Whether only the diagonals of the second moments of inputs are known.
    pub fn is_diagonal(&self) -> bool {
        matches!(self.0, Source::Imatrix(_))
    }

    /// The matrices whose inputs were measured: in the model's order in a file from
    /// [`calibrate`](super::calibrate), otherwise by name.
    pub fn names(&self) -> impl Iterator<Item = &MatrixName> {
        let names: Vec<&MatrixName> = match &self.0 {
            Source::File(file) => file.manifest().matrices.iter().map(|m| &m.name).collect(),
            Source::Imatrix(matrix) => matrix.inputs().keys().collect(),
            Source::Memory { inputs, .. } => inputs.keys().collect(),
        };
        names.into_iter()
    }

    /// Whether the inputs of a matrix were measured.
    pub fn knows(&self, name: &MatrixName) -> bool {
        match &self.0 {
            Source::Imatrix(matrix) => matrix.input(name).is_some(),
            Source::File(_) | Source::Memory { .. } => self.names().any(|known| known == name),
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
            Source::Imatrix(_) | Source::Memory { .. } => Ok(name),
        }
    }

    /// Number of inputs of a matrix.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::Foreign`].
    pub fn input_width(&self, name: &MatrixName) -> Result<usize, CalibrationError> {
        match &self.0 {
            Source::File(file) => Ok(file.shape(name)?[1]),
            Source::Imatrix(matrix) => Ok(of_imatrix(matrix, name)?.size()),
            Source::Memory { inputs, .. } => Ok(known(inputs, name)?.size()),
        }
    }

    /// The diagonal of the second moment of the inputs of a matrix. Less is read for it than for
    /// [`inputs`](Self::inputs).
    ///
    /// # Errors
    ///
    /// Those of [`Calibration::inputs`].
    pub fn input_squares(&self, name: &MatrixName) -> Result<SecondMoment, CalibrationError> {
        if let Source::File(file) = &self.0 {
            return file.input_squares(name);
        }
        let moment = self.inputs(name)?;
        SecondMoment::from_squares(&moment.squares(), moment.count())
            .map_err(|source| CalibrationError::Linalg { name: name.clone(), source })
    }

    /// The second moment of the inputs of a matrix.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::Foreign`], and errors of reading.
    pub fn inputs(&self, name: &MatrixName) -> Result<Cow<'_, SecondMoment>, CalibrationError> {
        match &self.0 {
            Source::File(file) => Ok(Cow::Owned(file.inputs(name)?)),
            Source::Imatrix(matrix) => of_imatrix(matrix, name),
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
            return Err(self.without_gradients());
        }
        match &self.0 {
            Source::File(file) => Ok(Cow::Owned(file.outputs(name)?)),
            Source::Imatrix(_) => Err(self.without_gradients()),
            Source::Memory { outputs, .. } => known(outputs, name),
        }
    }

    /// The second moment of the inputs of the head: the hidden states at the end of the model, as many
    /// times as the model multiplies logits. `None` if they were not measured, as in files of earlier
    /// versions.
    ///
    /// # Errors
    ///
    /// Errors of reading.
    pub fn head_inputs(&self) -> Result<Option<SecondMoment>, CalibrationError> {
        match &self.0 {
            Source::File(file) => file.head(),
            Source::Imatrix(_) | Source::Memory { .. } => Ok(None),
        }
    }

    /// The second moment of the gradients with respect to rows of the embedding, where they are looked
    /// up. `None` if they were not measured.
    ///
    /// # Errors
    ///
    /// Errors of reading.
    pub fn embedding_outputs(&self) -> Result<Option<SecondMoment>, CalibrationError> {
        match &self.0 {
            Source::File(file) => file.embedding(),
            Source::Imatrix(_) | Source::Memory { .. } => Ok(None),
        }
    }

    /// Identifies the content.
    pub fn digest(&self) -> &str {
        match &self.0 {
            Source::File(file) => file.digest(),
            Source::Imatrix(matrix) => matrix.digest(),
            Source::Memory { digest, .. } => digest,
        }
    }

    /// Number of windows whose inputs were measured, and of tokens in each. An importance matrix of
    /// the format before GGUF does not state how long its windows are: they count as one token.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let of_counts = |inputs: &BTreeMap<MatrixName, SecondMoment>, windows: usize| {
            let count = inputs.values().map(SecondMoment::count).max().unwrap_or(0) as usize;
            let windows = windows.clamp(1, count.max(1));
            (windows, count / windows)
        };
        match &self.0 {
            Source::File(file) => (file.manifest().windows, file.manifest().seq_len),
            Source::Imatrix(matrix) => of_counts(matrix.inputs(), matrix.windows()),
            Source::Memory { inputs, .. } => of_counts(inputs, 1),
        }
    }

    /// The windows of tokens that were read; none for a calibration in memory, and for an importance
    /// matrix.
    ///
    /// # Errors
    ///
    /// Errors of reading.
    pub fn windows(&self) -> Result<Vec<Vec<u32>>, CalibrationError> {
        match &self.0 {
            Source::File(file) => file.windows(),
            Source::Imatrix(_) | Source::Memory { .. } => Ok(Vec::new()),
        }
    }

    /// The texts that the windows were taken from, in turn; none for a calibration in memory, and in
    /// files of an earlier version. Those of an importance matrix have only names, and a number of
    /// windows if there is one text.
    pub fn texts(&self) -> &[TextRecord] {
        match &self.0 {
            Source::File(file) => &file.manifest().texts,
            Source::Imatrix(matrix) => matrix.texts(),
            Source::Memory { .. } => &[],
        }
    }

    /// The measured cost of factoring a matrix over the estimated cost, if it was probed.
    pub fn probe(&self, name: &MatrixName) -> Option<f64> {
        match &self.0 {
            Source::File(file) => file.probe(name),
            Source::Imatrix(_) | Source::Memory { .. } => None,
        }
    }

    /// Whether matrices were probed.
    pub fn has_probes(&self) -> bool {
        self.largest_probe().is_some()
    }

    /// The largest [probe](Self::probe) of all matrices; `None` if none was probed.
    pub fn largest_probe(&self) -> Option<f64> {
        self.names().filter_map(|name| self.probe(name)).reduce(f64::max)
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
            Source::Imatrix(matrix) => of_imatrix(matrix, name)?.size() == shape[1],
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
            Source::Imatrix(_) | Source::Memory { .. } => Ok(()),
        }
    }
}

fn of_imatrix<'a>(
    matrix: &'a ImportanceMatrix,
    name: &MatrixName,
) -> Result<Cow<'a, SecondMoment>, CalibrationError> {
    let foreign = || CalibrationError::Foreign { reason: format!("it has no `{name}`") };
    matrix.input(name).map(Cow::Borrowed).ok_or_else(foreign)
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
