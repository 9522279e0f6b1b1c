//! What MODEL can be on the command line, and how it becomes a directory.
//!
//! A path that exists is used as it is, except that a `.gguf` file is converted into the cache of
//! this program, with all parts of a model of several files. Otherwise `org/name`, optionally with
//! `@revision`, is a model of the Hugging Face Hub, which is fetched into the cache that the Hub's
//! programs share. Commands look up their model once, after checking everything else they were
//! given.

mod error;
mod gguf;
mod hub;
mod id;
mod kind;
mod listing;
mod origin;
mod reply;
mod site;
mod transfer;
mod verify;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Result;

pub use error::HubError;
use id::HubId;
pub use kind::{
    Artifact, Wanted, check_compared, check_kind, check_planned, is_artifact, is_model_part,
};
use welore_burn::checkpoint::Checkpoint;
use welore_burn::files::FileError;
use welore_burn::gguf::{GgufConversion, gguf_files};

use crate::devices::Compute;

/// What can be given as MODEL, as a hint for a user who gave something else.
pub const WHAT_MODEL_IS: &str = "MODEL is a directory, a .gguf file, or a model of the Hugging Face Hub such as \
                                 HuggingFaceTB/SmolLM2-135M-Instruct or org/name@revision";

/// The directory of a model. A path that neither exists nor is an id is returned unchanged; the
/// command then refuses it as a missing directory.
///
/// # Errors
///
/// [`HubError`] and others for a model that cannot be fetched, [`FileError`] for a path that may not
/// be looked at, and [`WrongInput`](crate::failure::WrongInput) for a file that is no model or a
/// directory that holds something else.
pub fn directory_of(model: &Path) -> Result<PathBuf> {
    checked(model, GgufConversion::default())
}

/// The same for a model that is only run on a device: where it multiplies by blocks as they are, the
/// matrices of a `.gguf` file stay in theirs.
///
/// # Errors
///
/// As [`directory_of`].
pub fn directory_to_run(model: &Path, compute: &Compute) -> Result<PathBuf> {
    checked(model, GgufConversion { packed: compute.multiplies_blocks() })
}

/// The same for a model that is only looked at: the matrices of a `.gguf` file stay in the types that
/// they have there.
///
/// # Errors
///
/// As [`directory_of`].
pub fn directory_to_show(model: &Path) -> Result<PathBuf> {
    checked(model, GgufConversion { packed: true })
}

/// Bytes of a model's weights on disk; of the whole file, for a `.gguf` file, with all parts of a model
/// of several files, which was converted into `checkpoint`.
pub fn bytes_on_disk(model: &Path, checkpoint: &Checkpoint) -> u64 {
    let files = if model.is_file() { gguf_files(model).ok() } else { None };
    let bytes_of = |file: &PathBuf| Some(file.metadata().ok()?.len());
    let bytes = files.and_then(|files| files.iter().map(bytes_of).sum::<Option<u64>>());
    bytes.unwrap_or_else(|| checkpoint.stored_bytes())
}

fn checked(model: &Path, conversion: GgufConversion) -> Result<PathBuf> {
    let found = resolve(model, true, conversion)?;
    if found.is_dir() {
        kind::check_directory(&found)?;
    } else if found.exists() {
        return Err(kind::no_model(&found).into());
    }
    Ok(found)
}

/// The same for a model whose weights are not needed and therefore not fetched.
///
/// # Errors
///
/// As [`directory_of`].
pub fn configuration_of(model: &Path) -> Result<PathBuf> {
    resolve(model, false, GgufConversion::default())
}

fn resolve(model: &Path, weights: bool, conversion: GgufConversion) -> Result<PathBuf> {
    // What may not be looked at does not seem to exist, and would be reported as missing.
    if let Err(error) = model.metadata()
        && error.kind() == ErrorKind::PermissionDenied
    {
        return Err(FileError::io(model)(error).into());
    }
    match HubId::parse(model) {
        // If `run` is a directory, `run/modle` is a misspelt path in it.
        Some(id) if !model.exists() && !is_within_a_directory(model) => hub::fetch(&id, weights),
        _ if is_model_file(model) && model.is_file() => {
            kind::check_model_file(model)?;
            gguf::directory_of(model, conversion)
        }
        _ => Ok(model.into()),
    }
}

/// Whether there is no such file or directory, and no model of the Hub is meant.
pub fn is_missing(model: &Path) -> bool {
    let is_path = HubId::parse(model).is_none() || is_within_a_directory(model);
    is_path && matches!(model.try_exists(), Ok(false))
}

fn is_within_a_directory(model: &Path) -> bool {
    model.parent().is_some_and(|parent| !parent.as_os_str().is_empty() && parent.is_dir())
}

/// Whether a path names a file that is a model by itself, unlike the files that commands write.
pub fn is_model_file(path: &Path) -> bool {
    path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"))
}

/// Whether two files are parts of one GGUF model by their names, such as `m-00001-of-00002.gguf`.
pub fn are_parts_of_one(one: &Path, other: &Path) -> bool {
    part_name(one).is_some() && part_name(one) == part_name(other)
}

/// What the names of all parts of a GGUF model have in common, and the number of parts; `None` for other
/// names.
fn part_name(path: &Path) -> Option<(&str, &str)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some((stem, count))
}

/// Refuses to write into the Hub's cache, which other programs use as well.
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
