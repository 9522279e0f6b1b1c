use std::fs;
use std::path::{Path, PathBuf};

use super::error::FileError;
use super::partial::Partial;
use super::place::{FilePlace, find_file};
use super::write::{parent_of, sync_dir};

/// Checks that a file that is not written from its beginning to its end, such as a calibration, can
/// be put at a path.
///
/// # Errors
///
/// Those of [`check_writable`](super::check_writable); [`FileError::NotAFile`] also for devices.
pub fn check_staged(path: &Path) -> Result<(), FileError> {
    let what = match find_file(path)? {
        FilePlace::File(_) => return Ok(()),
        FilePlace::Device => "a character device",
        FilePlace::Open(_) => "an open file or pipe",
    };
    Err(FileError::NotAFile { path: path.into(), what })
}

/// A file that is not written from its beginning to its end: it grows in a hidden directory beside
/// its place, and gets its name when it is complete. Links are followed. What a killed process left
/// of the same file is removed.
#[derive(Debug)]
pub(crate) struct StagedFile {
    /// As the user gave it.
    named: PathBuf,
    target: PathBuf,
    partial: Partial,
}

impl StagedFile {
    /// Prepares to write a file.
    ///
    /// # Errors
    ///
    /// Those of [`write_file`](super::write_file); [`FileError::NotAFile`] also for devices, which
    /// cannot be written in any order; [`FileError::OutputBusy`].
    pub fn create(path: &Path) -> Result<Self, FileError> {
        check_staged(path)?;
        let FilePlace::File(target) = find_file(path)? else {
            return Err(FileError::NotAFile { path: path.into(), what: "no longer a file" });
        };
        let partial = Partial::claim(&target, path)?;
        let staged = Self { named: path.into(), target, partial };
        let begun = staged.partial.begin::<()>("file", |_| false);
        begun.map_err(|error| staged.name_target(error))?;
        Ok(staged)
    }

    /// The directory in which the file is written.
    pub fn dir(&self) -> &Path {
        self.partial.model()
    }

    /// Names the target in an error about a file in the directory.
    pub fn name_target(&self, error: FileError) -> FileError {
        match error {
            FileError::Io { path, source } if self.partial.holds(&path) => {
                FileError::Io { path: self.named.clone(), source }
            }
            other => other,
        }
    }

    /// Moves a file of the directory to its place.
    pub fn commit(self, file: &str) -> Result<(), FileError> {
        FileError::check_sound(&self.named)?;
        let io = || FileError::io(&self.named);
        fs::rename(self.dir().join(file), &self.target).map_err(io())?;
        sync_dir(&parent_of(&self.target))
    }
}
