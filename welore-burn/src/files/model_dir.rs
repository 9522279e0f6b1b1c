//! By what names a directory is a model's, so that it may be replaced as a whole.

use std::ffi::OsString;
use std::fs::{self, DirEntry};
use std::path::{Path, PathBuf};

use super::error::FileError;
use super::place::find_dir;
use super::temporary::is_temporary;

/// What an existing output directory must hold to be replaced, so that a typo does not cost a
/// home directory.
const MARKS: [[&str; 2]; 6] = [
    ["config.json", "model.safetensors"],
    ["config.json", "model.safetensors.index.json"],
    // What is compressed by its weights alone may have no configuration.
    ["welore_plan.json", "model.safetensors"],
    ["welore_plan.json", "model.safetensors.index.json"],
    // An adapter of PEFT.
    ["adapter_config.json", "adapter_model.safetensors"],
    // What training changed of a model.
    ["welore_changes.json", "changes.safetensors"],
];

/// How the names of files begin that model directories hold, in lower case.
const BEGINNINGS: [&str; 10] = [
    "tokenizer",
    "vocab",
    "chat_template",
    "readme",
    "licen",
    "notice",
    "copying",
    "use_policy",
    ".gitattributes",
    ".ds_store",
];

/// How the names of others end: weights, configuration, text, the code of a model, pages.
const ENDS: [&str; 16] = [
    ".safetensors",
    ".json",
    ".txt",
    ".md",
    ".model",
    ".jinja",
    ".py",
    ".bin",
    ".pt",
    ".pth",
    ".gguf",
    ".onnx",
    ".msgpack",
    ".h5",
    ".ot",
    ".html",
];

/// Whether a directory holds a model, whatever else is in it.
pub(super) fn is_model(dir: &Path) -> bool {
    MARKS.iter().any(|marks| marks.iter().all(|file| dir.join(file).is_file()))
}

/// Whether something is an empty directory, or a model directory with nothing else in it.
pub(super) fn may_go(path: &Path) -> bool {
    let is_dir = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    is_dir && (is_empty_dir(path) || (is_model(path) && foreign_in(path).is_none()))
}

pub(super) fn is_empty_dir(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// The name of something in a directory that model directories do not hold, the first in their
/// order: a directory, such as that of a run, or a file of an unknown kind.
pub(super) fn foreign_in(dir: &Path) -> Option<OsString> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|entry| !is_of_model(entry)).map(|entry| entry.file_name()).min()
}

fn is_of_model(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
        return name == ".cache" && is_of_download(&entry.path());
    }
    let lower = name.to_string_lossy().to_lowercase();
    is_temporary(&name)
        || BEGINNINGS.iter().any(|beginning| lower.starts_with(beginning))
        || ENDS.iter().any(|end| lower.ends_with(end))
}

/// Whether a directory is what the Hub's own program keeps in a directory that it downloads to.
fn is_of_download(dir: &Path) -> bool {
    let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.all(|entry| entry.file_name() == "huggingface")
}

/// Refuses a directory to be made inside a model directory: it would go with the model when that is
/// replaced, and is no part of it. The path need not exist.
///
/// # Errors
///
/// [`FileError::InsideModel`]; [`FileError::Unnamed`] if no directory can have this path.
pub fn check_beside_models(path: impl AsRef<Path>) -> Result<(), FileError> {
    let path = path.as_ref();
    let place = find_dir(path)?;
    let Some(model) = place.ancestors().skip(1).find(|dir| is_model(dir)) else { return Ok(()) };
    // As the user named it, if that is possible.
    let plain: PathBuf = path.components().collect();
    let is_it = |dir: &&Path| dir.canonicalize().is_ok_and(|dir| dir == model);
    let model = plain.ancestors().skip(1).find(is_it).unwrap_or(model).to_path_buf();
    Err(FileError::InsideModel { path: path.into(), model })
}
