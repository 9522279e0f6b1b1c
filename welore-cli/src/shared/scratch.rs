//! Temporary files.

use std::fs::{self, File};
use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;
use welore_burn::files::FileError;

use crate::failure::WrongInput;
use crate::shared::artifacts::check_space;

const PREFIX: &str = "welore-scratch-";

/// A file that is locked as long as its directory is in use.
const LOCK: &str = "lock";

/// The environment variable that names the system's place for temporary files.
const VARIABLE: &str = if cfg!(windows) { "TMP" } else { "TMPDIR" };

/// A directory for temporary files, if the command needs one. It is removed on drop.
#[derive(Debug)]
pub struct Scratch(Option<(TempDir, File)>);

impl Scratch {
    /// Creates the directory if it is `needed`.
    ///
    /// # Errors
    ///
    /// [`WrongInput`] if the system's place for temporary files is no directory, else
    /// [`FileError::Io`].
    pub fn new(needed: bool) -> Result<Self> {
        if !needed {
            return Ok(Self(None));
        }
        let place = std::env::temp_dir();
        if !place.is_dir() {
            let place = place.display();
            let message = format!("{VARIABLE}={place}: no such directory for temporary files");
            let hint = format!("set {VARIABLE} to a directory that exists");
            return Err(WrongInput::with_hint(message, hint).into());
        }
        sweep(&place);
        // The error itself names a file that nobody knows.
        let io = |error: std::io::Error| FileError::io(&place)(error.kind().into());
        let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&place).map_err(io)?;
        let lock = File::create(made.path().join(LOCK)).map_err(io)?;
        // Where nothing can be locked, nothing is swept either.
        let _ = lock.try_lock();
        Ok(Self(Some((made, lock))))
    }

    /// Checks that its file system has room for this many bytes, before any work is done for them.
    ///
    /// # Errors
    ///
    /// [`WrongInput`] if it has not.
    pub fn check_room(&self, bytes: u64) -> Result<()> {
        check_space(self.path(), bytes).map_err(|error| match error.downcast::<WrongInput>() {
            Ok(wrong) => {
                let hint = format!("set {VARIABLE} to a directory with more room");
                WrongInput { hint: Some(hint), ..wrong }.into()
            }
            Err(other) => other,
        })
    }

    /// The directory; an empty path if none was needed.
    pub fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), |(dir, _)| dir.path())
    }
}

/// Removes what killed processes left. Failures are for the next one.
fn sweep(place: &Path) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let lock = is_ours.then(|| File::open(entry.path().join(LOCK)).ok()).flatten();
        if lock.is_some_and(|lock| lock.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn files_that_do_not_fit_are_refused_with_a_way_out() {
        let scratch = Scratch::new(true).unwrap();
        assert!(scratch.check_room(1).is_ok());
        let refused = scratch.check_room(u64::MAX).unwrap_err().downcast::<WrongInput>().unwrap();
        assert!(refused.hint.is_some_and(|hint| hint.contains(VARIABLE)));
    }

    #[test]
    fn what_killed_processes_left_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let dir = |name: &str| place.path().join(format!("{PREFIX}{name}"));
        for name in ["killed", "in-use", "new"] {
            fs::create_dir(dir(name)).unwrap();
        }
        File::create(dir("killed").join(LOCK)).unwrap();
        let used = File::create(dir("in-use").join(LOCK)).unwrap();
        used.try_lock().unwrap();
        sweep(place.path());
        assert!(!dir("killed").exists() && dir("in-use").exists() && dir("new").exists());
    }
}
