//! What all JSON artifacts begin with.

use serde::Deserialize;

/// The fields that say what a file is, before the rest of it can be understood.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Header {
    pub format: String,
    pub version: u32,
}

impl Header {
    /// Reads the header of a JSON text.
    pub fn of(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}
