use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::norms::Norms;
use crate::artifact::Header;
use crate::modules::MatrixName;

const FORMAT: &str = "welore-spectra";
const VERSION: u32 = 2;
/// Spectra of this version have a `probe` and no other measurements.
const FIRST_VERSION: u32 = 1;

/// The singular values of a model's matrices: what `analyze` writes and `plan` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spectra {
    format: String,
    version: u32,
    /// Where the matrices came from, for people; nothing depends on it.
    pub source: String,
    /// The whole model's size, measured matrices included.
    pub model: ModelSize,
    /// What the singular values measure.
    #[serde(default)]
    pub unit: SpectrumUnit,
    /// Digest of the calibration that they came of, if they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// One entry a matrix, in the model's order.
    pub matrices: Vec<MatrixSpectrum>,
}

/// What the singular values of a model's matrices measure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpectrumUnit {
    /// The weights themselves, as in the paper.
    #[default]
    Weights,
    /// What the weights do to the inputs of a calibration: `W L` with `L Lᵀ = E[x xᵀ]`.
    Inputs,
    /// The same, and what it does to the loss: `R W L` with `Rᵀ R = E[g gᵀ]` of the gradients
    /// of the outputs. Half a squared singular value estimates what leaving it out costs.
    Loss,
}

/// How large a model is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSize {
    /// Stored parameters; a tied head counts once.
    pub parameters: u64,
    /// Bytes of the stored parameters.
    pub bytes: u64,
}

/// The spectrum of one matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MatrixSpectrum {
    /// Hugging Face name without `.weight`.
    pub name: MatrixName,
    /// `[out, in]`, as PyTorch stores it.
    pub shape: [usize; 2],
    /// Stored type of the entries.
    pub dtype: Dtype,
    /// BLAKE3 of the stored bytes and dtype, where the matrix came from a file. A plan that
    /// carries it can tell that it was made for other weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Largest first, `min(out, in)` of them.
    pub singular_values: Vec<f64>,
    /// What else was measured of this matrix, by name, for policies to read. What a calibration
    /// knows is there, such as [`PROBE`]; whoever measures more adds it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measurements: BTreeMap<String, f64>,
}

/// A measurement: what a probe of a matrix cost the loss, over what its singular values promised.
pub const PROBE: &str = "probe";

/// A spectra file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpectraError {
    /// Not JSON, or not of this layout.
    #[error("not a spectra file: {0}")]
    Json(#[from] serde_json::Error),
    /// Some other JSON file.
    #[error("not a spectra file: its format is `{0}`, not `{FORMAT}`")]
    Format(String),
    /// Written by a newer version.
    #[error("spectra format version {0} is not known here (this is version {VERSION})")]
    Version(u32),
    /// No matrix in it.
    #[error("there is no matrix in it")]
    NoMatrices,
    /// A matrix that cannot be.
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
    /// As [`Spectra::from_json`], for matrices that cannot be.
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
    /// [`SpectraError`] if it is not such a file, or if names repeat, shapes and numbers of
    /// values disagree, or values are negative, not finite or not sorted.
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

    fn check(&self) -> Result<(), SpectraError> {
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

/// Reads spectra of the first version as those of this one.
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
    /// What was measured under this name, if it was.
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
        // Later sums over parameters must not overflow, whatever a hostile file says.
        if full == 0 || self.shape.iter().any(|n| *n > u32::MAX as usize) {
            Some(format!("a {} x {} matrix cannot be", self.shape[0], self.shape[1]))
        } else if values.len() != full {
            Some(format!("{} singular values for full rank {full}", values.len()))
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
