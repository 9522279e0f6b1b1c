//! The directory of a run: made, locked, and cleaned up if the run never begins.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::checkpoint::CheckpointError;

use super::run_file::RUN_FILE;
use crate::failure::WrongInput;

const LOCK: &str = "lock";

/// A run directory that this process alone works in, as long as the value lives. The system
/// lets go of the lock when a process dies, however it dies.
#[derive(Debug)]
pub struct Place {
    _lock: File,
}

impl Place {
    /// The directory of a run to go on with.
    pub fn of_run(dir: &Path) -> Result<Self> {
        let place = Self::lock(dir, &dir.join(LOCK))?;
        // What a killed process left of a model it was writing.
        for entry in fs::read_dir(dir).map_err(io(dir))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(".welore-") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(place)
    }

    fn lock(dir: &Path, path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path).map_err(io(path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _lock: file }),
            Err(TryLockError::WouldBlock) => {
                let message = format!("{}: another process is at work on this run", dir.display());
                Err(WrongInput { message, hint: None }.into())
            }
            Err(TryLockError::Error(source)) => Err(io(path)(source).into()),
        }
    }
}

/// A new run directory. Until it is kept, dropping it removes all that was made.
#[derive(Debug)]
pub struct NewPlace {
    dir: PathBuf,
    /// Directories that were not there, outermost first.
    made: Vec<PathBuf>,
    place: Option<Place>,
}

impl NewPlace {
    /// Makes the directory of a new run, which must be new or empty.
    pub fn create(dir: &Path) -> Result<Self> {
        if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
            let message = format!("{} exists and is not empty", dir.display());
            let hint = match dir.join(RUN_FILE).exists() {
                true => format!("`welore-cli train --resume {}` goes on with a run", dir.display()),
                false => "give another directory, or remove what an unfinished start left".into(),
            };
            return Err(WrongInput { message, hint: Some(hint) }.into());
        }
        let new = |dir: &&Path| !dir.as_os_str().is_empty() && dir.symlink_metadata().is_err();
        let mut made: Vec<PathBuf> =
            dir.ancestors().take_while(new).map(Path::to_path_buf).collect();
        made.reverse();
        let mut new = Self { dir: dir.to_path_buf(), made, place: None };
        fs::create_dir_all(dir).map_err(io(dir))?;
        // Of two starts at the same time one gets no further.
        new.place = Some(Place::lock(dir, &dir.join(LOCK))?);
        Ok(new)
    }

    /// The run has begun; its directory stays.
    pub fn keep(mut self) -> Place {
        self.made.clear();
        self.place.take().expect("locked when it was made")
    }
}

impl Drop for NewPlace {
    fn drop(&mut self) {
        if self.place.take().is_none() {
            return;
        }
        // It was new or empty: all in it was made here. A failure to tidy up must not hide the
        // error that led here.
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let _ = match path.is_dir() {
                true => fs::remove_dir_all(path),
                false => fs::remove_file(path),
            };
        }
        for dir in self.made.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> CheckpointError {
    let path = path.to_path_buf();
    move |source| CheckpointError::Io { path, source }
}
