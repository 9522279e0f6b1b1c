use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::FileError;
use super::journal::Journal;
use super::partial::Partial;
use super::place::{FilePlace, find_file};
use super::write::{check_writable, parent_of, sync_dir};

/// Checks that a file that is not written from its beginning to its end, such as a calibration, can
/// be put at a path.
///
/// # Errors
///
/// Those of [`check_writable`]; [`FileError::NotAFile`] also for devices.
pub fn check_staged(path: &Path) -> Result<(), FileError> {
    let what = match find_file(path)? {
        FilePlace::File(_) => return check_writable(path),
        FilePlace::Device => "a character device",
        FilePlace::Open(_) => "an open file or pipe",
    };
    Err(FileError::NotAFile { path: path.into(), what })
}

/// The hidden directory in which finished parts of a file wait for a process that goes on with them, if
/// there is one.
pub fn unfinished(path: impl AsRef<Path>) -> Option<PathBuf> {
    let Ok(FilePlace::File(target)) = find_file(path.as_ref()) else { return None };
    Partial::with_parts(&target)
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
    /// Those of [`check_staged`]; [`FileError::OutputBusy`]; [`FileError::NotLockable`];
    /// [`FileError::PartialForeign`] and [`FileError::Doubled`] if the hidden directory cannot be
    /// used.
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let mut staged = Self::claim(path)?;
        let begun = staged.partial.begin_whole("file");
        begun.map_err(|error| staged.name_target(error))?;
        Ok(staged)
    }

    /// Prepares to write a file of which finished parts outlive the process, or goes on with what
    /// an earlier process finished of the same `job`: then files that `belong` to it stay in the
    /// directory, and the parts that were noted are returned. What another job left is removed.
    ///
    /// # Errors
    ///
    /// Those of [`create`](Self::create).
    pub fn resume<T: DeserializeOwned + Serialize>(
        path: &Path,
        job: &str,
        belongs: impl Fn(&str) -> bool,
    ) -> Result<(Self, Journal, Vec<T>), FileError> {
        let staged = Self::claim(path)?;
        let begun = staged.partial.begin(job, belongs);
        let (journal, finished) = begun.map_err(|error| staged.name_target(error))?;
        Ok((staged, journal, finished))
    }

    fn claim(path: &Path) -> Result<Self, FileError> {
        check_staged(path)?;
        let FilePlace::File(target) = find_file(path)? else {
            return Err(FileError::NotAFile { path: path.into(), what: "no longer a file" });
        };
        let partial = Partial::claim(&target, path, |_| false)?;
        Ok(Self { named: path.into(), target, partial })
    }

    /// The directory in which the file is written.
    pub fn dir(&self) -> &Path {
        self.partial.model()
    }

    /// Names the target in an error about a file in the directory.
    pub fn name_target(&self, error: FileError) -> FileError {
        self.partial.name_target(error, &self.named)
    }

    /// Moves a file of the directory to its place.
    ///
    /// # Errors
    ///
    /// [`FileError::Unsound`]; [`FileError::Undelivered`] if it stays in the directory, where the
    /// next file with this target removes it; [`FileError::Io`].
    pub fn commit(self, file: &str) -> Result<(), FileError> {
        FileError::check_sound(&self.named)?;
        let finished = self.dir().join(file);
        if let Err(source) = fs::rename(&finished, &self.target) {
            self.partial.keep();
            return Err(FileError::Undelivered { path: self.named, kept: finished, source });
        }
        let synced = sync_dir(&parent_of(&self.target));
        self.partial.discard();
        synced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_file_outlives_a_rename_that_fails() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("seen");
        let staged = StagedFile::create(&path).unwrap();
        fs::write(staged.dir().join("file"), "hours of work").unwrap();
        // Nothing can be renamed to it.
        fs::create_dir_all(path.join("full")).unwrap();
        let error = staged.commit("file").unwrap_err();
        let FileError::Undelivered { path: named, kept, .. } = &error else { panic!("{error}") };
        assert_eq!(*named, path);
        assert_eq!(fs::read(kept).unwrap(), b"hours of work");

        fs::remove_dir_all(&path).unwrap();
        let staged = StagedFile::create(&path).unwrap();
        fs::write(staged.dir().join("file"), "again").unwrap();
        staged.commit("file").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"again");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn finished_work_of_another_job_stays_until_the_file_has_its_name() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("seen");
        let left = home.path().join(".seen.welore-partial");
        fs::create_dir_all(left.join("model")).unwrap();
        fs::write(left.join("model/part"), "hours of work").unwrap();
        let head = r#"{"format":"welore-partial","version":1,"job":"other"}"#;
        fs::write(left.join("progress.jsonl"), format!("{head}\n\"part\"\n")).unwrap();

        let staged = StagedFile::create(&path).unwrap();
        fs::write(staged.dir().join("file"), "half").unwrap();
        drop(staged);
        assert_eq!(fs::read(left.join("model/part")).unwrap(), b"hours of work");
        assert!(!left.join("fresh").exists());

        let staged = StagedFile::create(&path).unwrap();
        fs::write(staged.dir().join("file"), "whole").unwrap();
        staged.commit("file").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    /// As for files that are written at once.
    #[test]
    fn places_for_no_file_are_found_before_any_work() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), "mine").unwrap();
        for name in ["file", "new", "nowhere/new", "file/new", "new/", "."] {
            let path = home.path().join(name);
            let found = [check_staged(&path), check_writable(&path)];
            let [staged, whole] = found.map(|found| found.map_err(|error| error.to_string()));
            assert_eq!(staged, whole, "{name}");
            assert_eq!(StagedFile::create(&path).is_ok(), whole.is_ok(), "{name}");
        }
        // Nobody can create files there, not even the superuser.
        if cfg!(target_os = "linux") {
            let error = check_staged(Path::new("/proc/new")).unwrap_err();
            assert!(matches!(error, FileError::Io { .. }), "{error}");
        }
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
