//! Unfinished output directories that outlive their process.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::FileError;
use super::write::{TEMPORARY, parent_of, write_file};

const LOCK: &str = "lock";
const JOURNAL: &str = "progress.jsonl";
const MODEL: &str = "model";
const FORMAT: &str = "welore-partial";
const VERSION: u32 = 1;

/// No real journal is longer; a hostile one is read no further.
const LONGEST_JOURNAL: u64 = 64 << 20;

/// The directory `.NAME.welore-partial` beside the output `NAME`: a `lock` that the writing
/// process holds, the journal, and the files in `model`.
#[derive(Debug)]
pub(super) struct Partial {
    dir: PathBuf,
    model: PathBuf,
    /// Whether it stays when this value is dropped.
    keep: AtomicBool,
    _lock: File,
}

/// The first line of a journal.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Head {
    format: String,
    version: u32,
    /// Identifies what is being written.
    job: String,
}

impl Partial {
    /// Creates the directory, or takes over one that an earlier process left.
    pub fn claim(target: &Path) -> Result<Self, FileError> {
        let dir = place_of(target);
        let io = || FileError::io(target);
        // Another process may finish and clean up between any two of these lines.
        for _ in 0..100 {
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => check_ours(&dir)?,
                Err(error) => return Err(FileError::io(parent_of(target))(error)),
            }
            let path = dir.join(LOCK);
            let lock = match File::options().create(true).append(true).open(&path) {
                Ok(lock) => lock,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(io()(error)),
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(FileError::OutputBusy { path: target.into() });
                }
                Err(TryLockError::Error(error)) => return Err(io()(error)),
            }
            if !is_same(&lock, &path) {
                continue;
            }
            let model = dir.join(MODEL);
            let keep = AtomicBool::new(journal(&dir).is_some());
            let partial = Self { dir, model, keep, _lock: lock };
            // From here on, dropping `partial` removes what was created.
            if !partial.model.is_dir() {
                fs::create_dir(&partial.model).map_err(io())?;
            }
            return Ok(partial);
        }
        Err(FileError::OutputBusy { path: target.into() })
    }

    /// Where the files are.
    pub fn model(&self) -> &Path {
        &self.model
    }

    /// Whether a path is in the directory.
    pub fn holds(&self, path: &Path) -> bool {
        path.starts_with(&self.dir)
    }

    /// Lets the directory outlive this value.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Removes what is left once the files are in their place.
    pub fn discard(self) {
        self.keep.store(false, Ordering::Relaxed);
    }

    /// Begins a job, or resumes it if it was interrupted here: then files that `belong` to it
    /// stay, and the parts recorded as finished are returned. What another job left is removed.
    pub fn begin<T: DeserializeOwned + Serialize>(
        &self,
        job: &str,
        belongs: impl Fn(&str) -> bool,
    ) -> Result<(Journal, Vec<T>), FileError> {
        let head = Head { format: FORMAT.into(), version: VERSION, job: job.into() };
        let lines = journal(&self.dir).unwrap_or_default();
        let mut lines = lines.lines();
        let same = lines.next().and_then(|line| serde_json::from_str::<Head>(line).ok());
        let same = same.is_some_and(|found| found == head);
        self.keep.store(same, Ordering::Relaxed);
        // A line cut short by a kill ends the list.
        let finished: Vec<T> = match same {
            true => lines.map_while(|line| serde_json::from_str(line).ok()).collect(),
            false => Vec::new(),
        };
        let path = self.dir.join(JOURNAL);
        let io = || FileError::io(&path);
        if !same {
            // Before the journal is replaced: after a kill in between, files of the old job would
            // pass for files of this one.
            self.clear(|_| false)?;
        }
        let mut text = line_of(&head).map_err(io())?;
        for part in &finished {
            text.extend(line_of(part).map_err(io())?);
        }
        write_file(&path, &text)?;
        if same {
            self.clear(belongs)?;
        }
        let file = File::options().append(true).open(&path).map_err(io())?;
        Ok((Journal { path, file }, finished))
    }

    /// Removes the files that do not belong to the job.
    fn clear(&self, belongs: impl Fn(&str) -> bool) -> Result<(), FileError> {
        let io = || FileError::io(&self.model);
        for entry in fs::read_dir(&self.model).map_err(io())? {
            let entry = entry.map_err(io())?;
            if entry.file_name().to_str().is_some_and(&belongs) {
                continue;
            }
            let path = entry.path();
            let removed = match entry.file_type().map_err(io())?.is_dir() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.map_err(FileError::io(&path))?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.keep.load(Ordering::Relaxed) {
            return;
        }
        // The lock goes last: from then on another process may create the directory anew, and
        // nothing in that one may be removed. A failed cleanup must not hide the original error.
        let _ = fs::remove_dir_all(&self.model);
        let _ = fs::remove_file(self.dir.join(JOURNAL));
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if is_temporary(&entry.file_name()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        let _ = fs::remove_file(self.dir.join(LOCK));
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Records the finished parts of a job, one per line. If a power cut loses lines, their parts are
/// made again. Whether a recorded part is intact is checked when its line is read.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Records a finished part.
    pub fn note(&mut self, part: &impl Serialize) -> Result<(), FileError> {
        FileError::check_sound(&self.path)?;
        line_of(part).and_then(|line| self.file.write_all(&line)).map_err(FileError::io(&self.path))
    }
}

fn line_of(value: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// The directory for a target: hidden, and the same every time.
fn place_of(target: &Path) -> PathBuf {
    /// Most file systems allow 255 bytes in a name.
    const LONGEST: usize = 200;
    let mut name = OsString::from(".");
    match target.file_name() {
        Some(file) if file.len() <= LONGEST => name.push(file),
        file => {
            let bytes = file.unwrap_or_default().as_encoded_bytes();
            name.push(blake3::hash(bytes).to_hex().as_str());
        }
    }
    name.push(".welore-partial");
    parent_of(target).join(name)
}

/// The journal in a directory, if this program wrote it.
fn journal(dir: &Path) -> Option<String> {
    let file = File::open(dir.join(JOURNAL)).ok()?;
    let mut text = Vec::new();
    file.take(LONGEST_JOURNAL).read_to_end(&mut text).ok()?;
    // A line half written before a kill or a power cut may hold anything.
    let text = String::from_utf8_lossy(&text).into_owned();
    let head: Head = serde_json::from_str(text.lines().next()?).ok()?;
    (head.format == FORMAT).then_some(text)
}

/// Checks that a directory holds only what this program writes.
fn check_ours(dir: &Path) -> Result<(), FileError> {
    let foreign = || FileError::PartialForeign { path: dir.into() };
    if !dir.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        // It may also have been removed meanwhile.
        return if dir.symlink_metadata().is_ok() { Err(foreign()) } else { Ok(()) };
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // This does not follow links, so they are neither files nor directories.
        let Ok(kind) = entry.file_type() else { continue };
        let name = entry.file_name();
        let ours = match name.to_str() {
            Some(LOCK | JOURNAL) => kind.is_file(),
            Some(MODEL) => kind.is_dir(),
            _ => is_temporary(&name) && kind.is_file(),
        };
        if !ours {
            return Err(foreign());
        }
    }
    let filled = fs::read_dir(dir.join(MODEL)).is_ok_and(|mut entries| entries.next().is_some());
    // Read again, because a process that is just finishing removes both.
    if filled && journal(dir).is_none() && dir.join(MODEL).is_dir() {
        return Err(foreign());
    }
    Ok(())
}

fn is_temporary(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes())
}

/// Whether a path still leads to an open file: a lock on a removed file locks nothing.
#[cfg(unix)]
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;

    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(found)) => (open.dev(), open.ino()) == (found.dev(), found.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_same(_file: &File, path: &Path) -> bool {
    path.is_file()
}
