//! What was measured: which model, on which tokens, where, and by which version of this program.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;
use welore_burn::train::model_digest;

use crate::devices::Compute;

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

/// BLAKE3 of a text's tokens, 4 bytes each, little-endian, in hex.
pub fn digest_of(tokens: &[u32]) -> String {
    let mut digest = blake3::Hasher::new();
    for token in tokens {
        digest.update(&token.to_le_bytes());
    }
    digest.finalize().to_hex().to_string()
}
