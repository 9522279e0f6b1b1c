//! Files and directories that commands read and write.

use std::path::Path;

use anyhow::{Context, Result};
use welore_burn::checkpoint::check_companions;
use welore_burn::files::{
    FileClaim, LARGEST_ARTIFACT, OutputDir, check_beside_models, check_writable, is_within,
    read_file, replaced_file, write_file,
};

use super::inputs::check_apart;
use crate::failure::WrongInput;
use crate::models::Artifact;
use crate::{format, models};

/// Reads a JSON artifact that the user named.
pub fn read_artifact(path: &Path) -> Result<String> {
    let bytes = read_file(path, LARGEST_ARTIFACT)?;
    String::from_utf8(bytes)
        .map_err(|_| WrongInput::new(format!("{}: not a JSON file", path.display())).into())
}

/// Checks that an artifact of this kind can be written to the given path, before any work is done for
/// it: that it replaces no input, and nothing of another kind.
pub fn check_artifact<'a>(
    path: Option<&Path>,
    kind: Artifact,
    inputs: impl IntoIterator<Item = &'a Path>,
) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    models::check_outside_cache(path)?;
    check_writable(path)?;
    check_apart(Some(path), inputs)?;
    let Some(there) = replaced_file(path)? else { return Ok(()) };
    if there.metadata().is_ok_and(|found| found.len() > 0) && !kind.is_in(&there) {
        let message = format!("{} exists and is not {}", path.display(), kind.what());
        return Err(WrongInput::with_hint(message, "give the output another name").into());
    }
    Ok(())
}

/// Says so if a GGUF file has a name under which it is not read here.
pub fn tell_gguf_name(path: &Path) {
    if !models::is_model_file(path) {
        let path = path.display();
        note!(
            "commands read {path} as a model only if its name ends in .gguf, such as {path}.gguf"
        );
    }
}

/// Claims the path of an artifact for the time of the work, if there is one: a second process with
/// the same output stops here.
pub fn claim(path: Option<&Path>) -> Result<Option<FileClaim>> {
    Ok(path.map(FileClaim::take).transpose()?)
}

/// Writes an artifact, with a note.
pub fn write_artifact(path: &Path, text: &str) -> Result<()> {
    write_file(path, format!("{text}\n").as_bytes())?;
    note!("wrote {}", path.display());
    Ok(())
}

/// Checks that an output directory neither is nor contains the model, which would be replaced while
/// it is read, that its place may hold a directory, and that what goes with the model can be copied.
pub fn check_output(output: &Path, model: &Path) -> Result<()> {
    check_place(output)?;
    check_companions(model)?;
    // Directories that are not models are refused elsewhere, with a plainer message.
    if output.join("config.json").is_file() && is_within(model, output) {
        let message = format!("{} is or contains the model itself", output.display());
        return Err(WrongInput::with_hint(message, "give another output directory").into());
    }
    Ok(())
}

/// Checks that a directory to be made is not in the Hub's cache or inside a model.
pub fn check_place(output: &Path) -> Result<()> {
    models::check_outside_cache(output)?;
    Ok(check_beside_models(output)?)
}

/// Checks that the file system of an output has room for this many bytes, before any work is done for
/// it.
pub fn check_space(output: &Path, bytes: u64) -> Result<()> {
    match free_space(output) {
        Some(free) if u128::from(bytes) > free => {
            let free = format::bytes(u64::try_from(free).unwrap_or(u64::MAX));
            let (path, bytes) = (output.display(), format::bytes(bytes));
            let message =
                format!("{path}: {bytes} do not fit on its file system, where {free} are free");
            Err(WrongInput::with_hint(message, "give another output directory").into())
        }
        _ => Ok(()),
    }
}

/// The same for outputs that are all written, some of them perhaps on one file system.
pub fn check_space_of(outputs: &[(&Path, u64)]) -> Result<()> {
    for (path, _) in outputs {
        let system = file_system(path);
        let beside = outputs.iter().filter(|(other, _)| file_system(other) == system);
        check_space(path, beside.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes)))?;
    }
    Ok(())
}

/// What tells the file system where a path is or would be from others.
#[cfg(unix)]
fn file_system(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find_map(|dir| dir.metadata().ok()).map(|found| found.dev())
}

#[cfg(not(unix))]
fn file_system(_path: &Path) -> Option<u64> {
    None
}

/// Free bytes where a path is or would be; `None` if the system does not tell.
#[cfg(unix)]
fn free_space(path: &Path) -> Option<u128> {
    let path = std::path::absolute(path).ok()?;
    let found = path.ancestors().find_map(|dir| nix::sys::statvfs::statvfs(dir).ok())?;
    Some(u128::from(found.blocks_available()) * u128::from(found.fragment_size()))
}

#[cfg(not(unix))]
fn free_space(_path: &Path) -> Option<u128> {
    None
}

/// Names the output directory in an error about a file that is still being prepared.
pub fn in_target<T>(result: Result<T>, output: &OutputDir) -> Result<T> {
    result.map_err(|error| match error.downcast() {
        Ok(error) => output.name_target(error).into(),
        Err(other) => other,
    })
}

/// Names the file that an error is about.
pub fn in_file<T, E>(result: Result<T, E>, path: &Path) -> Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    result.with_context(|| path.display().to_string())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn outputs_that_no_file_system_holds_are_refused_before_they_begin() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("not/yet/there");
        assert!(check_space(&output, 1).is_ok());
        let error = check_space(&output, u64::MAX).unwrap_err().to_string();
        assert!(error.contains("there") && error.contains("free"), "{error}");
        assert!(!dir.path().join("not").exists());
    }

    #[test]
    fn outputs_on_one_file_system_share_its_space() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("not/yet/other"));
        let (one, other) = (one.as_path(), other.as_path());
        let most = u64::try_from(free_space(dir.path()).unwrap() * 2 / 3).unwrap();
        assert!(check_space_of(&[(one, most)]).is_ok());
        assert!(check_space_of(&[(one, 1), (other, 1)]).is_ok());
        let error = check_space_of(&[(one, most), (other, most)]).unwrap_err().to_string();
        assert!(error.contains("one") && error.contains("free"), "{error}");
    }
}
