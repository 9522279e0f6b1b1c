//! The JSON file of saved changes: which base they belong to, and what they are.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::ChangesError;
use crate::artifact::{Header, in_words};
use crate::files::{LARGEST_ARTIFACT, read_existing};

/// File name of this file.
pub(super) const RECORD_FILE: &str = "welore_changes.json";

/// File name of the tensors.
pub(super) const TENSORS_FILE: &str = "changes.safetensors";

const FORMAT: &str = "welore-changes";
const VERSION: u32 = 1;

/// Digests of tensors by their names.
pub(super) type Digests = BTreeMap<String, String>;

/// What the file says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    format: String,
    version: u32,
    /// Of all tensors of the base.
    pub base: Digests,
    /// Of the tensors in the file beside.
    pub changed: Digests,
}

impl Record {
    pub fn new(base: Digests, changed: Digests) -> Self {
        Self { format: FORMAT.into(), version: VERSION, base, changed }
    }

    /// Reads a file; `None` if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>, ChangesError> {
        let Some(bytes) = read_existing(path, LARGEST_ARTIFACT)? else { return Ok(None) };
        let broken = |reason: String| ChangesError::Broken { path: path.into(), reason };
        let not_changes = |problem: &str| broken(format!("not saved changes: {problem}"));
        let text = String::from_utf8(bytes).map_err(|_| not_changes("it is not UTF-8 text"))?;
        let header = Header::of(&text).map_err(|error| not_changes(&in_words(&error)))?;
        if header.format != FORMAT {
            let problem = format!("its format is `{}`, not `{FORMAT}`", header.format);
            return Err(not_changes(&problem));
        }
        if header.version != VERSION {
            let version = header.version;
            let reason = format!(
                "format version {version} of changes is not supported (only version {VERSION})"
            );
            return Err(broken(reason));
        }
        serde_json::from_str(&text).map(Some).map_err(|error| not_changes(&in_words(&error)))
    }

    /// The text of the file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings always serialize")
    }
}
