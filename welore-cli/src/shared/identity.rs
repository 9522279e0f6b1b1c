//! What was measured: which model, on which tokens, where, and by which version of this program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use welore_burn::modules::MatrixName;
use welore_burn::plan::RankPlan;
use welore_burn::spectrum::Spectra;
use welore_burn::train::model_digest;

use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::format;

/// The fields of a JSON result that say which model was measured, and how.
#[derive(Debug, Clone, Serialize)]
pub struct Identity {
    /// The model as it was typed.
    model: String,
    /// BLAKE3 of the files that define it, as in run files.
    model_digest: String,
    /// The type that it was computed in.
    dtype: &'static str,
    /// The backend that computed it.
    backend: &'static str,
    /// The name of the device.
    device: String,
    /// The version of this program.
    version: &'static str,
}

impl Identity {
    /// Of a model, which the user called `typed`, in its directory. Reads its files once.
    pub fn of(typed: &Path, dir: &Path, compute: &Compute) -> Result<Self> {
        Ok(Self {
            model: typed.display().to_string(),
            model_digest: model_digest(dir)?,
            dtype: compute.dtype_name(),
            backend: compute.backend_name(),
            device: compute.device_name(),
            version: env!("CARGO_PKG_VERSION"),
        })
    }

    /// BLAKE3 of the files that define the model.
    pub fn model_digest(&self) -> &str {
        &self.model_digest
    }

    /// An object with these fields and those of a result.
    pub fn with(&self, result: Value) -> Value {
        let mut all = serde_json::to_value(self).expect("strings serialize");
        if let (Value::Object(all), Value::Object(result)) = (&mut all, result) {
            all.extend(result);
        }
        all
    }
}

/// The model that an artifact is about, as far as it says.
#[derive(Debug)]
pub struct Subject {
    file: PathBuf,
    /// Bytes of the whole dense model.
    bytes: u64,
    /// Digests of its matrices.
    digests: BTreeMap<MatrixName, String>,
}

impl Subject {
    /// That of spectra in a file.
    pub fn of_spectra(file: &Path, spectra: &Spectra) -> Self {
        let matrices = spectra.matrices.iter();
        let digests = matrices.filter_map(|m| Some((m.name.clone(), m.digest.clone()?)));
        Self { file: file.into(), bytes: spectra.model.bytes, digests: digests.collect() }
    }

    /// That of a plan in a file or directory.
    pub fn of_plan(file: &Path, plan: &RankPlan) -> Self {
        let matrices = plan.matrices.iter();
        let digests = matrices.filter_map(|m| Some((m.name.clone(), m.digest.clone()?)));
        Self { file: file.into(), bytes: plan.totals.bytes_before, digests: digests.collect() }
    }

    /// That of what `compare --json` printed; `None` if it has no row of the dense model.
    pub fn of_compared(file: &Path, compared: &Value) -> Option<Self> {
        let rows = compared["rows"].as_array()?;
        let dense = rows.iter().find(|row| row["method"] == "dense")?;
        let digests = BTreeMap::new();
        Some(Self { file: file.into(), bytes: dense["bytes"].as_u64()?, digests })
    }

    /// Why this cannot be the same model as another; `None` if it can.
    fn difference(&self, other: &Self) -> Option<String> {
        if self.bytes != other.bytes {
            let [one, two] = [self, other].map(|subject| format::bytes(subject.bytes));
            return Some(match one == two {
                true => format!("one has {} bytes, the other {}", self.bytes, other.bytes),
                false => format!("one has {one}, the other {two}"),
            });
        }
        let differs = |(name, digest): &(&MatrixName, &String)| {
            other.digests.get(*name).is_some_and(|its| its != *digest)
        };
        let (name, _) = self.digests.iter().find(differs)?;
        Some(format!("`{}` has other weights", name.as_str()))
    }
}

/// Refuses artifacts that are about different models.
pub fn check_one_model(subjects: &[Subject]) -> Result<()> {
    for (place, one) in subjects.iter().enumerate() {
        for two in &subjects[place + 1..] {
            if let Some(difference) = one.difference(two) {
                let (one, two) = (one.file.display(), two.file.display());
                let message = format!("{one} and {two} are of different models: {difference}");
                return Err(WrongInput::with_hint(message, "make a page for each model").into());
            }
        }
    }
    Ok(())
}

/// BLAKE3 of a text's tokens, 4 bytes each, little-endian, in hex.
pub fn digest_of(tokens: &[u32]) -> String {
    let mut digest = blake3::Hasher::new();
    for token in tokens {
        digest.update(&token.to_le_bytes());
    }
    digest.finalize().to_hex().to_string()
}
