//! Unfinished output directories that outlive their process.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::FileError;
use super::journal::{Head, JOURNAL, Journal, read_journal};
use super::lock::{Lock, TryLock};
use super::temporary::{PARTIAL, is_temporary, stem_of};
use super::write::parent_of;

const LOCK: &str = "lock";
const MODEL: &str = "model";
/// What is written while `model` holds finished parts of another job. Nothing of it is ever resumed.
const FRESH: &str = "fresh";
/// What is about to be exchanged with the target, and then what the target was. Nothing of it is
/// ever resumed.
pub(super) const LEAVING: &str = "leaving";
/// What the target was, where nothing can be exchanged. It has this name only until the target is
/// there again.
pub(super) const REPLACED: &str = "replaced";

/// The directory `.NAME.welore-partial` beside the output `NAME`: a `lock` that the writing
/// process holds, the journal, and the files in `model`, or in `fresh` beside the work of another job.
#[derive(Debug)]
pub(super) struct Partial {
    dir: PathBuf,
    model: PathBuf,
    keep: Arc<Keep>,
    lock: Lock,
}

/// Whether a directory outlives the value that stands for it.
#[derive(Debug, Default)]
pub(super) struct Keep {
    stays: AtomicBool,
    /// Whether a finished part of the present job is in it.
    has_parts: AtomicBool,
    /// Whether `fresh` goes also if the directory stays.
    fresh_goes: AtomicBool,
}

impl Keep {
    fn set(&self, stays: bool) {
        self.stays.store(stays, Ordering::Relaxed);
    }

    pub fn set_parts(&self, has_parts: bool) {
        self.has_parts.store(has_parts, Ordering::Relaxed);
        self.set(has_parts);
    }
}

impl Partial {
    /// Creates the directory for a target, or takes over one that an earlier process left. Errors
    /// name the target as `named`. Of what the target was, only what `may_go` is removed.
    pub fn claim(
        target: &Path,
        named: &Path,
        may_go: fn(&Path) -> bool,
    ) -> Result<Self, FileError> {
        Self::claim_by(File::try_lock, target, named, may_go)
    }

    fn claim_by(
        try_lock: TryLock,
        target: &Path,
        named: &Path,
        may_go: fn(&Path) -> bool,
    ) -> Result<Self, FileError> {
        let dir = place_of(target);
        let io = || FileError::io(named);
        // Another process may finish and clean up between any two of these lines.
        for _ in 0..100 {
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => check_ours(&dir)?,
                Err(error) => return Err(io()(error)),
            }
            let taken = Lock::take(&dir.join(LOCK), named, try_lock).inspect_err(|_| {
                // Only if it is empty: then nobody has it.
                let _ = fs::remove_dir(&dir);
            });
            let Some(lock) = taken? else { continue };
            let model = dir.join(MODEL);
            let keep = Arc::new(Keep::default());
            keep.set(read_journal(&dir).is_some_and(|text| text.lines().nth(1).is_some()));
            let partial = Self { dir, model, keep, lock };
            // From here on, dropping `partial` removes what was created.
            partial.put_back(target, named, may_go)?;
            if !partial.model.is_dir() {
                fs::create_dir(&partial.model).map_err(io())?;
            }
            return Ok(partial);
        }
        Err(FileError::OutputBusy { path: named.into() })
    }

    /// Whether there is a directory for a target, without any files that wait for their name.
    pub fn is_finished(target: &Path) -> bool {
        let dir = place_of(target);
        let waits =
            |name: &str| fs::read_dir(dir.join(name)).is_ok_and(|mut files| files.next().is_some());
        dir.is_dir() && ![MODEL, FRESH].into_iter().any(waits) && !dir.join(REPLACED).exists()
    }

    /// The directory for a target, if finished parts are in it.
    pub fn with_parts(target: &Path) -> Option<PathBuf> {
        let dir = place_of(target);
        let has_parts = read_journal(&dir)?.lines().nth(1).is_some();
        has_parts.then_some(dir)
    }

    /// Puts back what a process took away before it was killed. If its replacement was there
    /// already, it is litter.
    fn put_back(
        &self,
        target: &Path,
        named: &Path,
        may_go: fn(&Path) -> bool,
    ) -> Result<(), FileError> {
        let (replaced, leaving) = (self.dir.join(REPLACED), self.dir.join(LEAVING));
        if !replaced.is_dir() {
            return Ok(());
        }
        let (to, is_clear) = match target.symlink_metadata().is_ok() {
            true => (&*leaving, !leaving.exists() && may_go(&replaced) && may_go(target)),
            false => (target, true),
        };
        if !is_clear {
            self.keep();
            return Err(FileError::Doubled { path: named.into(), kept: replaced });
        }
        fs::rename(&replaced, to).map_err(|source| {
            self.keep();
            FileError::Stranded { path: named.into(), kept: replaced, source }
        })
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the files are.
    pub fn model(&self) -> &Path {
        &self.model
    }

    /// Names the target, as the user gave it, in an error about something in the directory.
    pub fn name_target(&self, error: FileError, named: &Path) -> FileError {
        let is_within = |path: &Path| path.starts_with(&self.dir);
        match error {
            FileError::Io { path, source } if is_within(&path) => {
                FileError::Io { path: named.into(), source }
            }
            FileError::SourceTruncated { path } if is_within(&path) => {
                FileError::SourceTruncated { path: named.into() }
            }
            FileError::Unsound { path, source } if is_within(&path) => {
                FileError::Unsound { path: named.into(), source }
            }
            other => other,
        }
    }

    /// Lets the directory outlive this value.
    pub fn keep(&self) {
        self.keep.set(true);
        self.keep.fresh_goes.store(false, Ordering::Relaxed);
    }

    /// Whether the directory outlives this value because of what is finished in it.
    pub fn has_parts(&self) -> bool {
        self.keep.has_parts.load(Ordering::Relaxed)
    }

    /// Removes what is left once the files are in their place, and what was there before.
    pub fn discard(self) {
        self.keep.set(false);
    }

    /// Begins a job, or resumes it if it was interrupted here: then files that `belong` to it
    /// stay, and the parts recorded as finished are returned. What another job left is removed.
    pub fn begin<T: DeserializeOwned + Serialize>(
        &self,
        job: &str,
        belongs: impl Fn(&str) -> bool,
    ) -> Result<(Journal, Vec<T>), FileError> {
        let head = Head::new(job);
        let found: Option<Vec<T>> = head.finished(&self.dir);
        let is_same = found.is_some();
        let finished = found.unwrap_or_default();
        self.keep.set_parts(!finished.is_empty());
        for tree in [FRESH, LEAVING] {
            remove_tree(&self.dir.join(tree))?;
        }
        if !is_same {
            // Before the journal is replaced: after a kill in between, files of the old job would
            // pass for files of this one.
            self.clear(|_| false)?;
        }
        let journal = Journal::create(&self.dir, &head, &finished, Arc::clone(&self.keep))?;
        if is_same {
            self.clear(belongs)?;
        }
        Ok((journal, finished))
    }

    /// Begins what is written at once and never resumed. Finished parts of another job stay until
    /// the directory is discarded: before that, whoever began this may still refuse it.
    pub fn begin_whole(&mut self, job: &str) -> Result<(), FileError> {
        if !self.keep.stays.load(Ordering::Relaxed) {
            // The journal marks the files as ours, if the process is killed.
            return self.begin::<()>(job, |_| false).map(drop);
        }
        for tree in [FRESH, LEAVING] {
            remove_tree(&self.dir.join(tree))?;
        }
        let fresh = self.dir.join(FRESH);
        fs::create_dir(&fresh).map_err(FileError::io(&fresh))?;
        self.model = fresh;
        self.keep.fresh_goes.store(true, Ordering::Relaxed);
        Ok(())
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

    /// Removes everything but the lock. Returns whether all is gone.
    fn empty(&self, remove: impl Fn(&Path) -> Result<(), FileError>) -> bool {
        for tree in [MODEL, FRESH, LEAVING] {
            // By the journal the next process knows that the rest is ours.
            if let Err(error) = remove(&self.dir.join(tree)) {
                tracing::warn!("{error}; it could not be removed");
                return false;
            }
        }
        // Its replacement has the name, but it could not be moved to what leaves.
        if self.dir.join(REPLACED).exists() {
            tracing::warn!("{}: what was replaced could not be removed", self.dir.display());
            return false;
        }
        let _ = fs::remove_file(self.dir.join(JOURNAL));
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if is_temporary(&entry.file_name()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        true
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // A failed cleanup must not hide the original error.
        let stays = self.keep.stays.load(Ordering::Relaxed);
        if stays
            && self.keep.fresh_goes.load(Ordering::Relaxed)
            && let Err(error) = remove_tree(&self.dir.join(FRESH))
        {
            tracing::warn!("{error}; it could not be removed");
        }
        let is_empty = !stays && self.empty(remove_tree);
        // The lock goes last: from then on another process may create the directory anew, and
        // nothing in that one may be removed.
        if is_empty || !self.lock.is_real {
            let _ = fs::remove_file(self.dir.join(LOCK));
        }
        if is_empty {
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

fn remove_tree(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(FileError::io(path)(error)),
        _ => Ok(()),
    }
}

/// The directory for a target: hidden, and the same every time.
fn place_of(target: &Path) -> PathBuf {
    let mut name = stem_of(target);
    name.push(PARTIAL);
    parent_of(target).join(name)
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
            Some(MODEL | FRESH | LEAVING | REPLACED) => kind.is_dir(),
            _ => is_temporary(&name) && kind.is_file(),
        };
        if !ours {
            return Err(foreign());
        }
    }
    for tree in [MODEL, FRESH, LEAVING, REPLACED].map(|name| dir.join(name)) {
        let filled = fs::read_dir(&tree).is_ok_and(|mut entries| entries.next().is_some());
        // Read again, because a process that is just finishing removes both.
        if filled && read_journal(dir).is_none() && tree.is_dir() {
            return Err(foreign());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use super::*;

    fn any(_: &Path) -> bool {
        true
    }

    /// As on a network file system without locks.
    fn no_locks(_: &File) -> Result<(), TryLockError> {
        Err(TryLockError::Error(ErrorKind::Unsupported.into()))
    }

    fn names_in(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn without_locks_who_made_the_lock_has_it() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("out");
        let claim = || Partial::claim_by(no_locks, &target, &target, any);
        let partial = claim().unwrap();
        let (mut journal, _) = partial.begin::<u32>("job", |_| true).unwrap();
        fs::write(partial.model().join("part"), "finished").unwrap();
        journal.note(&1, true).unwrap();

        // Another process, and one after this one was killed.
        let error = claim().unwrap_err();
        let FileError::NotLockable { path, .. } = &error else { panic!("{error}") };
        assert!(path.starts_with(partial.dir()) && path.is_file());
        assert_eq!(fs::read(partial.model().join("part")).unwrap(), b"finished");

        // What is kept can be resumed.
        drop(partial);
        let partial = claim().unwrap();
        let (_, finished) = partial.begin::<u32>("job", |_| true).unwrap();
        assert_eq!(finished, [1]);
        partial.discard();
        assert_eq!(names_in(home.path()), Vec::<String>::new());
    }

    /// Something in the directory cannot be removed, such as what another program has open.
    #[test]
    fn what_cannot_be_removed_is_recognized_later() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("out");
        for stuck in [MODEL, FRESH, LEAVING] {
            let partial = Partial::claim(&target, &target, any).unwrap();
            partial.begin::<()>("job", |_| false).unwrap();
            let tree = partial.dir().join(stuck);
            fs::create_dir_all(&tree).unwrap();
            fs::write(tree.join("weights"), "half").unwrap();
            let is_empty = partial.empty(|path| match path.ends_with(stuck) {
                true => Err(FileError::io(path)(ErrorKind::ResourceBusy.into())),
                false => remove_tree(path),
            });
            assert!(!is_empty && partial.dir().join(JOURNAL).is_file());
            // The end of the process, without another try.
            partial.keep();
            drop(partial);

            let partial = Partial::claim(&target, &target, any).unwrap();
            partial.begin::<()>("other", |_| false).unwrap();
            drop(partial);
            assert_eq!(names_in(home.path()), Vec::<String>::new());
        }
    }

    #[test]
    fn output_that_is_there_loses_what_its_killed_process_left() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("out");
        let partial = Partial::claim(&target, &target, any).unwrap();
        partial.begin::<()>("job", |_| false).unwrap();
        fs::write(partial.model().join("weights"), "new").unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("config.json"), "{}").unwrap();
        fs::write(target.join("model.safetensors"), "").unwrap();
        partial.keep();
        let dir = partial.dir.clone();
        drop(partial);
        // Files that wait for their name stay.
        let refused = || crate::files::OutputDir::resumable(&target, false).unwrap_err();
        assert!(matches!(refused(), FileError::OutputExists { .. }));
        assert!(dir.join(MODEL).join("weights").exists());
        fs::remove_dir_all(dir.join(MODEL)).unwrap();
        assert!(matches!(refused(), FileError::OutputExists { .. }));
        assert_eq!(names_in(home.path()), ["out"]);
    }
}
