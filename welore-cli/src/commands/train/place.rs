//! The directory of a run: created, locked, and cleaned up if the run never begins.

use std::fs::{self, DirEntry, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::files::{FileError, is_temporary, read_file};
use welore_burn::train::{GRADIENTS_FILE, RUN_FILE};

use crate::failure::WrongInput;

const LOCK: &str = "lock";

/// What the lock of a new run contains, by which a start that was killed is recognized. Locks of
/// earlier versions are empty.
const MARK: &str = "a run of welore-cli train\n";

/// What a new run may put into its directory, beside the lock.
const MADE: [&str; 6] =
    [RUN_FILE, "base", "tokens", "checkpoints", "metrics.jsonl", GRADIENTS_FILE];

/// A run directory that only this process works in, as long as the value lives. The system releases
/// the lock when the process ends, however it ends.
#[derive(Debug)]
pub struct Place {
    lock: File,
}

impl Place {
    /// The directory of a run to resume.
    pub fn of_run(dir: &Path) -> Result<Self> {
        let place = Self::lock(dir, &dir.join(LOCK))?;
        sweep(dir);
        sweep(&dir.join("checkpoints"));
        Ok(place)
    }

    /// The directory of a run to look at: refused while another process works on the run, if that
    /// can be told without writing anything.
    pub fn if_locked_before(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(LOCK);
        path.is_file().then(|| Self::lock(dir, &path)).transpose()
    }

    fn lock(dir: &Path, path: &Path) -> Result<Self> {
        // What is in it stays until it is locked. Windows locks no file that is only appended to.
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let lock = options.open(path).map_err(FileError::io(path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { lock }),
            Err(TryLockError::WouldBlock) => {
                let message = format!("{}: another process is working on this run", dir.display());
                Err(WrongInput::new(message).into())
            }
            Err(TryLockError::Error(source)) => Err(FileError::io(path)(source).into()),
        }
    }

    /// Marks the directory as that of a new run, through the lock itself: on Windows nothing else
    /// can write to it.
    fn mark(&mut self) -> io::Result<()> {
        self.lock.set_len(0)?;
        self.lock.write_all(MARK.as_bytes())
    }
}

/// What a lock contains: its mark, if the system does not let it be read while a process holds it,
/// as Windows does. `None` if it is no lock of a run.
fn mark_in(lock: &Path) -> Option<Vec<u8>> {
    /// `ERROR_LOCK_VIOLATION`
    const LOCKED: i32 = 33;
    match read_file(lock, MARK.len() as u64) {
        Ok(mark) => Some(mark),
        Err(FileError::Io { source, .. })
            if cfg!(windows) && source.raw_os_error() == Some(LOCKED) =>
        {
            Some(MARK.into())
        }
        Err(_) => None,
    }
}

/// A new run directory. Until it is kept, dropping it removes everything that was created.
#[derive(Debug)]
pub struct NewPlace {
    dir: PathBuf,
    /// Directories that did not exist before, outermost first.
    made: Vec<PathBuf>,
    /// `None` if another process has the directory.
    place: Option<Place>,
}

impl NewPlace {
    /// Creates the directory of a new run. If it exists, it must be empty, except for what a killed
    /// start left behind.
    pub fn create(dir: &Path) -> Result<Self> {
        check_free(dir)?;
        let new = |dir: &&Path| !dir.as_os_str().is_empty() && dir.symlink_metadata().is_err();
        let mut made: Vec<PathBuf> =
            dir.ancestors().take_while(new).map(Path::to_path_buf).collect();
        made.reverse();
        let mut new = Self { dir: dir.to_path_buf(), made, place: None };
        fs::create_dir_all(dir).map_err(FileError::io(dir))?;
        // Of two processes that start at the same time, one stops here.
        let lock = dir.join(LOCK);
        let mut place = Place::lock(dir, &lock)?;
        place.mark().map_err(FileError::io(&lock))?;
        // The other one may be finished by now.
        check_free(dir)?;
        clear(dir);
        new.place = Some(place);
        Ok(new)
    }

    /// The run has begun; its directory stays.
    pub fn keep(mut self) -> Place {
        self.made.clear();
        self.place.take().expect("`create` returns none without a place")
    }
}

impl Drop for NewPlace {
    fn drop(&mut self) {
        if self.place.take().is_none() {
            return;
        }
        // The directory was as good as empty, so these were created here.
        clear(&self.dir);
        remove(&self.dir.join(LOCK));
        for dir in self.made.iter().rev() {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Refuses a directory with anything in it except what a killed start left behind.
pub fn check_free(dir: &Path) -> Result<()> {
    let refuse = |message: String, hint: String| -> Result<()> {
        Err(WrongInput::with_hint(message, hint).into())
    };
    if dir.symlink_metadata().is_ok() && !dir.is_dir() {
        let message = format!("{} is not a directory", dir.display());
        return refuse(message, "give another directory".into());
    }
    let entries = || fs::read_dir(dir).into_iter().flatten().flatten();
    let has_begun = mark_in(&dir.join(LOCK)).is_some_and(|mark| mark == MARK.as_bytes());
    let has_run = dir.join(RUN_FILE).symlink_metadata().is_ok();
    let is_left = |entry: &DirEntry| {
        let name = entry.file_name();
        let ours = has_begun && MADE.iter().any(|made| name == **made);
        is_temporary(&name) || is_lock(entry) || ours
    };
    if !has_run && entries().all(|entry| is_left(&entry)) {
        return Ok(());
    }
    let hint = match has_run {
        true => format!("`welore-cli train --resume {}` resumes the run in it", dir.display()),
        false => "give another directory".into(),
    };
    refuse(format!("{} exists and is not empty", dir.display()), hint)
}

/// Whether an entry is the lock of a run.
fn is_lock(entry: &DirEntry) -> bool {
    // A full disk may have cut the mark short.
    let is_one = || mark_in(&entry.path()).is_some_and(|mark| MARK.as_bytes().starts_with(&mark));
    entry.file_name() == LOCK && entry.metadata().is_ok_and(|found| found.is_file()) && is_one()
}

/// Removes unfinished files and directories that killed processes left behind.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if is_temporary(&entry.file_name()) {
            remove(&entry.path());
        }
    }
}

/// Removes what a start that never finished left behind, except for the lock.
fn clear(dir: &Path) {
    for name in MADE {
        remove(&dir.join(name));
    }
    sweep(dir);
}

/// Removes a file, or a directory and everything in it. A failed cleanup must not hide the error
/// that led here.
fn remove(path: &Path) {
    let _ = match path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}
