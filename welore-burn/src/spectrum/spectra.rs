use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::norms::Norms;
use crate::artifact::{Header, in_words};
use crate::modules::MatrixName;
use crate::words::number_of;

const FORMAT: &str = "welore-spectra";
const VERSION: u32 = 2;
/// In this version matrices have a `probe` and no other measurements.
const FIRST_VERSION: u32 = 1;

/// The singular values of a model's matrices. `analyze` writes them and `plan` reads them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spectra {
    format: String,
    version: u32,
    /// Where the matrices came from, as a note; nothing depends on it.
    pub source: String,
    /// The whole model's size, measured matrices included.
    pub model: ModelSize,
    /// The unit of the singular values.
    #[serde(default)]
    pub unit: SpectrumUnit,
    /// Digest of the calibration that they were measured with, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// One entry per matrix, in the model's order.
    pub matrices: Vec<MatrixSpectrum>,
}

/// The unit of the singular values of a model's matrices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpectrumUnit {
    /// The weights `W` themselves, as in the paper.
    #[default]
    Weights,
    /// The outputs on the inputs of a calibration: singular values of `W L` with `L Lᵀ = E[x xᵀ]`.
    Inputs,
    /// The loss: singular values of `R W L`, where also `Rᵀ R = E[g gᵀ]` of the gradients of the
    /// outputs. Half a squared singular value estimates the cost of leaving it out.
    Loss,
}

/// The size of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSize {
    /// Number of stored parameters; a tied head counts once.
    pub parameters: u64,
    /// Number of bytes of the stored parameters.
    pub bytes: u64,
}

/// The spectrum of one matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixSpectrum {
    /// Hugging Face name without `.weight`.
    pub name: MatrixName,
    /// `[out, in]`, as PyTorch stores it.
    pub shape: [usize; 2],
    /// Stored type of the entries.
    pub dtype: Dtype,
    /// BLAKE3 digest of stored bytes, shape and dtype, if the matrix came from a file. A plan
    /// that contains it can be refused for other weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// `min(out, in)` values, largest first.
    pub singular_values: Vec<f64>,
    /// Other measurements of this matrix, by name, for policies to read. Those of a calibration are
    /// included, such as [`PROBE`]; callers can add their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measurements: BTreeMap<String, f64>,
}

/// A measurement: the measured cost of factoring a matrix, over the estimate from its singular
/// values.
pub const PROBE: &str = "probe";

/// A spectra file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpectraError {
    /// Not JSON, or not of this layout.
    #[error("not a spectra file: {}", in_words(.0))]
    Json(#[from] serde_json::Error),
    /// Another kind of JSON file.
    #[error("not a spectra file: its format is `{0}`, not `{FORMAT}`")]
    Format(String),
    /// Written by another version.
    #[error("spectra format version {0} is not supported (only up to version {VERSION})")]
    Version(u32),
    /// No matrices.
    #[error("the spectra contain no matrix")]
    NoMatrices,
    /// An impossible matrix.
    #[error("matrix `{name}`: {reason}")]
    Matrix {
        /// Name of the matrix.
        name: MatrixName,
        /// What is wrong.
        reason: String,
    },
}

impl Spectra {
    /// Spectra from their parts.
    ///
    /// # Errors
    ///
    /// Those of [`Spectra::from_json`] about matrices.
    pub fn new(
        source: impl Into<String>,
        model: ModelSize,
        matrices: Vec<MatrixSpectrum>,
    ) -> Result<Self, SpectraError> {
        let spectra = Self {
            format: FORMAT.into(),
            version: VERSION,
            source: source.into(),
            model,
            unit: SpectrumUnit::Weights,
            calibration: None,
            matrices,
        };
        spectra.check()?;
        Ok(spectra)
    }

    pub(super) fn measured_in(mut self, norms: &Norms<'_>) -> Self {
        self.unit = norms.method().unit();
        self.calibration = norms.calibration().map(|calibration| calibration.digest().into());
        self
    }

    /// Reads and checks a spectra file's text.
    ///
    /// # Errors
    ///
    /// [`SpectraError`] if it is not a spectra file or has no matrices, if a name appears twice, if
    /// a shape and the number of values disagree, if a value is negative, not finite or not sorted,
    /// or if the matrices are larger than the model.
    pub fn from_json(text: &str) -> Result<Self, SpectraError> {
        let header = Header::of(text)?;
        if header.format != FORMAT {
            return Err(SpectraError::Format(header.format));
        }
        let spectra: Self = match header.version {
            VERSION => serde_json::from_str(text)?,
            FIRST_VERSION => from_first_version(text)?,
            version => return Err(SpectraError::Version(version)),
        };
        spectra.check()?;
        Ok(spectra)
    }

    /// The spectra file's text.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("finite numbers and strings always serialize")
    }

    /// The number of matrices without a probe, such as those of experts that see none of its text.
    pub fn unprobed(&self) -> usize {
        self.matrices.iter().filter(|matrix| matrix.measurement(PROBE).is_none()).count()
    }

    /// Checks that the spectra are possible: their fields are public.
    pub(crate) fn check(&self) -> Result<(), SpectraError> {
        if self.matrices.is_empty() {
            return Err(SpectraError::NoMatrices);
        }
        let mut names = BTreeSet::new();
        for matrix in &self.matrices {
            let problem = if !names.insert(&matrix.name) {
                Some("appears twice".to_string())
            } else {
                matrix.problem()
            };
            if let Some(reason) = problem {
                let name = matrix.name.clone();
                return Err(SpectraError::Matrix { name, reason });
            }
        }
        let measured: u64 = self.matrices.iter().map(MatrixSpectrum::parameters).sum();
        if measured > self.model.parameters {
            return Err(SpectraError::Matrix {
                name: self.matrices[0].name.clone(),
                reason: "the matrices have more parameters than the model".into(),
            });
        }
        Ok(())
    }
}

/// Converts spectra of the first version.
fn from_first_version(text: &str) -> Result<Spectra, SpectraError> {
    let mut value: serde_json::Value = serde_json::from_str(text)?;
    value["version"] = VERSION.into();
    for matrix in value["matrices"].as_array_mut().into_iter().flatten() {
        let entry = matrix.as_object_mut();
        if let Some((entry, probe)) = entry.and_then(|e| e.remove(PROBE).map(|probe| (e, probe))) {
            entry.insert("measurements".into(), serde_json::json!({ PROBE: probe }));
        }
    }
    Ok(serde_json::from_value(value)?)
}

impl MatrixSpectrum {
    /// The measurement with this name, if there is one.
    pub fn measurement(&self, name: &str) -> Option<f64> {
        self.measurements.get(name).copied()
    }

    /// `min(out, in)`.
    pub fn full_rank(&self) -> usize {
        self.shape[0].min(self.shape[1])
    }

    /// `out * in`.
    pub fn parameters(&self) -> u64 {
        self.shape[0] as u64 * self.shape[1] as u64
    }

    fn problem(&self) -> Option<String> {
        let (full, values) = (self.full_rank(), &self.singular_values);
        // Later sums over parameters must not overflow, whatever a hostile file claims.
        if full == 0 || self.shape.iter().any(|n| *n > u32::MAX as usize) {
            Some(format!("a {} x {} matrix is impossible", self.shape[0], self.shape[1]))
        } else if values.len() != full {
            Some(format!("{} for full rank {full}", number_of(values.len(), "singular value")))
        } else if values.iter().any(|s| !s.is_finite() || *s < 0.0) {
            Some("a singular value is negative or not finite".into())
        } else if self.measurement(PROBE).is_some_and(|probe| probe < 0.0) {
            Some("its probe is negative".into())
        } else if let Some((name, _)) = self.measurements.iter().find(|(_, x)| !x.is_finite()) {
            Some(format!("its measurement `{name}` is not finite"))
        } else if values.windows(2).any(|pair| pair[0] < pair[1]) {
            Some("the singular values are not sorted, largest first".into())
        } else {
            None
        }
    }
}
