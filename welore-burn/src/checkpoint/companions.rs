use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::CheckpointError;
use super::remote_code::{changed, forget_code, restore_base};
use super::scaled::forget_scales;
use crate::files::{FileError, LARGEST_COMPANION, check_input, read_file, write_file};

/// Beginnings of the names of files that a derived model keeps: configuration, tokenizer and
/// licence.
const COMPANIONS: [&str; 16] = [
    "config.json",
    "generation_config.json",
    "tokenizer",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.",
    "spiece.model",
    "sentencepiece",
    "preprocessor_config.json",
    "processor_config.json",
    "merges.txt",
    "chat_template",
    "licen",
    "notice",
    "copying",
    "use_policy",
];

/// Copies configuration, tokenizer and licence from one model directory to another, if they
/// exist. Code is never copied, and configurations no longer name code in files that were beside them.
/// A configuration that says that weights are numbers of 8 bits with scales no longer does: they
/// are written as they are read. That of a compressed directory becomes that of its base;
/// [`state_compressed`](super::state_compressed) states what is compressed in the new one.
///
/// # Errors
///
/// Those of [`check_companions`].
pub fn copy_companions(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    for companion in companions(from)? {
        let mut content = read_file(&companion, LARGEST_COMPANION)?;
        let name = companion.file_name().unwrap_or_default();
        if name.to_string_lossy().ends_with("config.json")
            && let Some(changed) = changed(&content, for_others)
        {
            content = changed;
        }
        write_file(to.join(name), &content)?;
    }
    Ok(())
}

/// Turns a configuration into that of another directory. Whether it changed.
fn for_others(config: &mut Map<String, Value>) -> bool {
    let changes = [restore_base(config), forget_code(config), forget_scales(config)];
    changes.contains(&true)
}

/// Checks that [`copy_companions`] can copy everything from a model directory, before long work.
///
/// The copies may be published, so a link is followed only within the model directory, or within the
/// repository in the Hub's cache that the directory is a snapshot of.
///
/// # Errors
///
/// [`CheckpointError::LeadsOut`] for a link that leads elsewhere, [`CheckpointError::File`] for a
/// pipe, a device, a file above 256 MiB, or one that cannot be read.
pub fn check_companions(from: &Path) -> Result<(), CheckpointError> {
    companions(from).map(drop)
}

/// The files to copy, after these checks.
fn companions(from: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let io = || FileError::io(from);
    let home = home_of(from).map_err(io())?;
    let mut found = Vec::new();
    for entry in fs::read_dir(from).map_err(io())? {
        let path = entry.map_err(io())?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let is_companion = COMPANIONS.iter().any(|start| name.starts_with(start));
        // A directory of licences is left alone, and so is a link to nothing.
        if !is_companion || path.is_dir() || !path.exists() {
            continue;
        }
        let target = path.canonicalize().map_err(FileError::io(&path))?;
        if !target.starts_with(&home) {
            return Err(CheckpointError::LeadsOut { link: path, target });
        }
        check_input(&path, LARGEST_COMPANION)?;
        found.push(path);
    }
    found.sort();
    Ok(found)
}

/// Where the files of a model directory may be: in it, or, for a snapshot in the Hub's cache, in its
/// repository, `models--ORG--NAME/snapshots/COMMIT`, whose files are links to `../../blobs`.
fn home_of(dir: &Path) -> std::io::Result<PathBuf> {
    let dir = dir.canonicalize()?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(snapshots) = dir.parent()
        && let Some(repository) = snapshots.parent()
        && name(snapshots) == "snapshots"
        && name(repository).starts_with("models--")
    {
        return Ok(repository.into());
    }
    Ok(dir)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn copied(from: &Path) -> Result<Vec<String>, CheckpointError> {
        let to = tempfile::tempdir().unwrap();
        copy_companions(from, to.path())?;
        let entries = fs::read_dir(to.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn links_within_the_directory_and_the_hubs_cache_are_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let repository = scratch.path().join("models--org--name");
        let (blobs, snapshot) = (repository.join("blobs"), repository.join("snapshots/abc"));
        for dir in [&blobs, &snapshot] {
            fs::create_dir_all(dir).unwrap();
        }
        fs::write(blobs.join("1234"), "{}").unwrap();
        symlink("../../blobs/1234", snapshot.join("tokenizer.json")).unwrap();
        symlink("tokenizer.json", snapshot.join("LICENSE")).unwrap();
        fs::create_dir(snapshot.join("licenses")).unwrap();
        symlink("nothing", snapshot.join("NOTICE")).unwrap();
        // The snapshot may also be reached by a link.
        let link = scratch.path().join("model");
        symlink(&snapshot, &link).unwrap();
        for dir in [&snapshot, &link] {
            assert_eq!(copied(dir).unwrap(), ["LICENSE", "tokenizer.json"]);
        }
    }

    #[test]
    fn links_that_lead_elsewhere_are_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let secret = scratch.path().join("secret");
        fs::write(&secret, "key").unwrap();
        let plain = scratch.path().join("model");
        let snapshot = scratch.path().join("models--org--name/snapshots/abc");
        // Looks like the Hub's cache, and is not: it is not the repository of `other`.
        let other = scratch.path().join("models--org--other/elsewhere/abc");
        for dir in [plain, snapshot, other] {
            fs::create_dir_all(&dir).unwrap();
            for target in [&secret, Path::new("/etc/hostname")] {
                let name = dir.join("tokenizer_config.json");
                symlink(target, &name).unwrap();
                if name.exists() {
                    let error = copied(&dir).unwrap_err();
                    assert!(matches!(error, CheckpointError::LeadsOut { .. }), "{error}");
                    assert!(error.to_string().contains("tokenizer_config.json"), "{error}");
                }
                fs::remove_file(name).unwrap();
            }
        }
    }

    #[test]
    fn companions_are_regular_files_of_a_sensible_size() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LICENSE");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let error = check_companions(dir.path()).unwrap_err();
        assert!(matches!(error, CheckpointError::File(FileError::NotAFile { .. })), "{error}");
        fs::remove_file(&path).unwrap();
        fs::File::create(&path).unwrap().set_len(LARGEST_COMPANION + 1).unwrap();
        let error = check_companions(dir.path()).unwrap_err();
        assert!(matches!(error, CheckpointError::File(FileError::TooLarge { .. })), "{error}");
    }
}
