//! The fields that every JSON artifact starts with.

use serde::Deserialize;

/// The fields that identify a file before the rest of it is parsed.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Header {
    pub format: String,
    pub version: u32,
}

impl Header {
    /// Reads the header of a JSON text.
    pub fn of(text: &str) -> Result<Self, serde_json::Error> {
        // serde takes a list of the fields for an object.
        if text.trim_start().starts_with('[') {
            return Err(serde::de::Error::custom("it is a list, not an object"));
        }
        serde_json::from_str(text)
    }
}
