//! What MODEL may be on the command line, and how it becomes a directory.
//!
//! A path that exists is what it is. Else `org/name`, perhaps with `@revision`, is a model of
//! the Hugging Face Hub, which is fetched into the cache that its programs share. A `.gguf` file
//! is converted, into the cache of this program. Commands
//! look for their model once, when all else they were given is checked.

mod error;
mod gguf;
mod hub;
mod id;
mod listing;
mod site;
mod transfer;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use error::HubError;
use id::HubId;

/// What can be given as MODEL, for who gave something else.
pub const WHAT_MODEL_IS: &str = "MODEL is a directory, a .gguf file, or a model of the Hugging Face Hub such as \
                                 HuggingFaceTB/SmolLM2-135M-Instruct or org/name@revision";

/// The directory of a model. What is neither there nor an id comes back as it is, for the
/// command to refuse as a directory that does not exist.
///
/// # Errors
///
/// [`HubError`] and others for a model that cannot be fetched.
pub fn directory_of(model: &Path) -> Result<PathBuf> {
    resolve(model, true)
}

/// The same of a model whose weights are not needed, so they are not fetched.
///
/// # Errors
///
/// As [`directory_of`].
pub fn configuration_of(model: &Path) -> Result<PathBuf> {
    resolve(model, false)
}

fn resolve(model: &Path, weights: bool) -> Result<PathBuf> {
    match HubId::parse(model) {
        // Where `run` is a directory, `run/modle` is a misspelt one.
        Some(id) if !model.exists() && !is_within_a_directory(model) => hub::fetch(&id, weights),
        _ if is_model_file(model) && model.is_file() => gguf::directory_of(model),
        _ => Ok(model.into()),
    }
}

fn is_within_a_directory(model: &Path) -> bool {
    model.parent().is_some_and(|parent| !parent.as_os_str().is_empty() && parent.is_dir())
}

/// Whether a path names a file that is a model by itself, and not one that some command wrote.
pub fn is_model_file(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// Refuses to write into the cache of the Hub, which other programs use as well.
///
/// # Errors
///
/// [`HubError::InCache`].
pub fn check_outside_cache(output: &Path) -> Result<(), HubError> {
    let real = |path: &Path| path.ancestors().find_map(|path| path.canonicalize().ok());
    let cache = site::cache_dir().and_then(|cache| cache.canonicalize().ok());
    let output_is = std::path::absolute(output).ok().and_then(|output| real(&output));
    match (cache, output_is) {
        (Some(cache), Some(real)) if real.starts_with(&cache) => {
            Err(HubError::InCache { path: output.into() })
        }
        _ => Ok(()),
    }
}
