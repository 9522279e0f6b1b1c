//! Unfinished output directories that outlive their process.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::FileError;
use super::exchange::exchange;
use super::output::may_go;
use super::temporary::{PARTIAL, is_same, is_temporary, stem_of};
use super::write::{parent_of, replace_file};

const LOCK: &str = "lock";
const JOURNAL: &str = "progress.jsonl";
const MODEL: &str = "model";
/// What is about to be exchanged with the target, and then what the target was. Nothing of it is
/// ever resumed.
const LEAVING: &str = "leaving";
/// What the target was, where nothing can be exchanged. It is removed only once the target is
/// there again.
const REPLACED: &str = "replaced";
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
    keep: Arc<Keep>,
    _lock: File,
}

/// Whether a directory outlives the value that stands for it.
#[derive(Debug, Default)]
struct Keep {
    stays: AtomicBool,
    /// Whether a finished part of the present job is in it.
    has_parts: AtomicBool,
}

impl Keep {
    fn set(&self, stays: bool) {
        self.stays.store(stays, Ordering::Relaxed);
    }

    fn set_parts(&self, has_parts: bool) {
        self.has_parts.store(has_parts, Ordering::Relaxed);
        self.set(has_parts);
    }
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
    /// Creates the directory for a target, or takes over one that an earlier process left. Errors
    /// name the target as `named`.
    pub fn claim(target: &Path, named: &Path) -> Result<Self, FileError> {
        let dir = place_of(target);
        let io = || FileError::io(named);
        // Another process may finish and clean up between any two of these lines.
        for _ in 0..100 {
            let is_new = match fs::create_dir(&dir) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    check_ours(&dir)?;
                    false
                }
                Err(error) => return Err(io()(error)),
            };
            let path = dir.join(LOCK);
            let lock = match File::options().create(true).append(true).open(&path) {
                Ok(lock) => lock,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    if is_new {
                        let _ = fs::remove_dir(&dir);
                    }
                    return Err(io()(error));
                }
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(FileError::OutputBusy { path: named.into() });
                }
                // Where nothing can be locked, who made the directory has it.
                Err(TryLockError::Error(_)) if is_new => {}
                Err(TryLockError::Error(error)) => return Err(io()(error)),
            }
            if !is_same(&lock, &path) {
                continue;
            }
            let model = dir.join(MODEL);
            let keep = Arc::new(Keep::default());
            keep.set(journal(&dir).is_some_and(|text| text.lines().nth(1).is_some()));
            let partial = Self { dir, model, keep, _lock: lock };
            // From here on, dropping `partial` removes what was created.
            partial.put_back(target, named)?;
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
        dir.is_dir() && !waits(MODEL) && !dir.join(REPLACED).exists()
    }

    /// Puts back what a process took away before it was killed.
    fn put_back(&self, target: &Path, named: &Path) -> Result<(), FileError> {
        let replaced = self.dir.join(REPLACED);
        if !replaced.is_dir() {
            return Ok(());
        }
        if target.symlink_metadata().is_ok() {
            let leaving = self.dir.join(LEAVING);
            // The new model has its name, and only the old one was not removed any more.
            let is_done = !leaving.exists() && may_go(target) && may_go(&replaced);
            if is_done && fs::rename(&replaced, &leaving).is_ok() {
                return Ok(());
            }
            self.keep();
            return Err(FileError::Doubled { path: named.into(), kept: replaced });
        }
        fs::rename(&replaced, target).map_err(|source| {
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

    /// Whether a path is in the directory.
    pub fn holds(&self, path: &Path) -> bool {
        path.starts_with(&self.dir)
    }

    /// Lets the directory outlive this value.
    pub fn keep(&self) {
        self.keep.set(true);
    }

    /// Whether the directory outlives this value because of what is finished in it.
    pub fn has_parts(&self) -> bool {
        self.keep.has_parts.load(Ordering::Relaxed)
    }

    /// Removes what is left once the files are in their place, and what was there before.
    pub fn discard(self) {
        let _ = fs::remove_dir_all(self.dir.join(REPLACED));
        self.keep.set(false);
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
        // A line cut short by a kill ends the list.
        let finished: Vec<T> = match same {
            true => lines.map_while(|line| serde_json::from_str(line).ok()).collect(),
            false => Vec::new(),
        };
        self.keep.set_parts(!finished.is_empty());
        let path = self.dir.join(JOURNAL);
        let io = || FileError::io(&path);
        remove_tree(&self.dir.join(LEAVING))?;
        if !same {
            // Before the journal is replaced: after a kill in between, files of the old job would
            // pass for files of this one.
            self.clear(|_| false)?;
        }
        let mut text = line_of(&head).map_err(io())?;
        for part in &finished {
            text.extend(line_of(part).map_err(io())?);
        }
        replace_file(&path, &text)?;
        if same {
            self.clear(belongs)?;
        }
        let file = File::options().append(true).open(&path).map_err(io())?;
        Ok((Journal { path, file, keep: Arc::clone(&self.keep) }, finished))
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

    /// Gives the files the name of the target. What had that name is then in this directory, until
    /// it is discarded; if it `may` not `go`, or anything else fails, the target is as it was.
    pub fn deliver(
        &self,
        target: &Path,
        named: &Path,
        may_go: fn(&Path) -> bool,
    ) -> Result<(), FileError> {
        if target.symlink_metadata().is_err() {
            return fs::rename(&self.model, target).map_err(FileError::io(named));
        }
        let leaving = self.dir.join(LEAVING);
        // First another name: if the process is killed after the exchange, the next one must not
        // go on to write into what the user had there.
        fs::rename(&self.model, &leaving).map_err(FileError::io(named))?;
        let exchanged = match exchange(&leaving, target) {
            Some(Ok(())) => self.settle(&leaving, target, named, may_go),
            Some(Err(error)) => Err(FileError::io(named)(error)),
            None => self.replace(&leaving, target, named, may_go, rename),
        };
        if !matches!(exchanged, Ok(()) | Err(FileError::Stranded { .. })) {
            // The work is still there, and may be resumed.
            let _ = fs::rename(&leaving, &self.model);
        }
        exchanged
    }

    /// Undoes an exchange if what was there has become something else since it was checked.
    fn settle(
        &self,
        leaving: &Path,
        target: &Path,
        named: &Path,
        may_go: fn(&Path) -> bool,
    ) -> Result<(), FileError> {
        if may_go(leaving) {
            return Ok(());
        }
        match exchange(leaving, target) {
            Some(Ok(())) => Err(FileError::OutputForeign { path: named.into() }),
            undone => {
                let unknown = || io::Error::from(ErrorKind::Unsupported);
                let source = undone.and_then(Result::err).unwrap_or_else(unknown);
                self.keep();
                // What leaves is removed one day, and what was replaced is not.
                let replaced = self.dir.join(REPLACED);
                let kept = match fs::rename(leaving, &replaced) {
                    Ok(()) => replaced,
                    Err(_) => leaving.into(),
                };
                Err(FileError::Stranded { path: named.into(), kept, source })
            }
        }
    }

    /// The same in two steps, where nothing can be exchanged.
    fn replace(
        &self,
        leaving: &Path,
        target: &Path,
        named: &Path,
        may_go: fn(&Path) -> bool,
        rename: impl Fn(&Path, &Path) -> io::Result<()>,
    ) -> Result<(), FileError> {
        let replaced = self.dir.join(REPLACED);
        rename(target, &replaced).map_err(FileError::io(named))?;
        let renamed = match may_go(&replaced) {
            true => rename(leaving, target).map_err(FileError::io(named)),
            false => Err(FileError::OutputForeign { path: named.into() }),
        };
        if renamed.is_ok() {
            // It is litter from here on.
            let _ = rename(&replaced, leaving);
            return renamed;
        }
        match rename(&replaced, target) {
            Ok(()) => renamed,
            Err(source) => {
                self.keep();
                Err(FileError::Stranded { path: named.into(), kept: replaced, source })
            }
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.keep.stays.load(Ordering::Relaxed) {
            return;
        }
        // The lock goes last: from then on another process may create the directory anew, and
        // nothing in that one may be removed. A failed cleanup must not hide the original error.
        for tree in [MODEL, LEAVING] {
            if let Err(error) = remove_tree(&self.dir.join(tree)) {
                // By the journal the next process knows that this is ours.
                tracing::warn!("{error}: it could not be removed");
                return;
            }
        }
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
    keep: Arc<Keep>,
}

impl Journal {
    /// Records a finished part. From then on the directory also survives an error, if the part `took`
    /// work to make.
    pub fn note(&mut self, part: &impl Serialize, took: bool) -> Result<(), FileError> {
        FileError::check_sound(&self.path)?;
        let noted = line_of(part).and_then(|line| self.file.write_all(&line));
        noted.map_err(FileError::io(&self.path))?;
        if took {
            self.keep.set_parts(true);
        }
        Ok(())
    }
}

fn line_of(value: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
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
            Some(MODEL | LEAVING | REPLACED) => kind.is_dir(),
            _ => is_temporary(&name) && kind.is_file(),
        };
        if !ours {
            return Err(foreign());
        }
    }
    for tree in [MODEL, LEAVING, REPLACED].map(|name| dir.join(name)) {
        let filled = fs::read_dir(&tree).is_ok_and(|mut entries| entries.next().is_some());
        // Read again, because a process that is just finishing removes both.
        if filled && journal(dir).is_none() && tree.is_dir() {
            return Err(foreign());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(_: &Path) -> bool {
        true
    }

    /// A home with an old model, and a claimed directory with a new one.
    fn with_both() -> (tempfile::TempDir, PathBuf, Partial) {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("out");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("weights"), "old").unwrap();
        let partial = Partial::claim(&target, &target).unwrap();
        partial.begin::<()>("job", |_| false).unwrap();
        fs::write(partial.model().join("weights"), "new").unwrap();
        (home, target, partial)
    }

    fn weights(dir: &Path) -> String {
        fs::read_to_string(dir.join("weights")).unwrap()
    }

    /// Moves the new model as `deliver` does, then replaces the old one by renames that fail from
    /// the given one on.
    fn replace_failing(partial: &Partial, target: &Path, failing: usize) -> Result<(), FileError> {
        let leaving = partial.dir.join(LEAVING);
        fs::rename(&partial.model, &leaving).unwrap();
        let done = std::cell::Cell::new(0);
        partial.replace(&leaving, target, target, any, |from, to| {
            done.set(done.get() + 1);
            match done.get() >= failing {
                true => Err(io::Error::from(ErrorKind::StorageFull)),
                false => fs::rename(from, to),
            }
        })
    }

    #[test]
    fn old_model_is_never_lost_to_two_failing_renames() {
        let (home, target, partial) = with_both();
        match replace_failing(&partial, &target, 2) {
            Err(FileError::Stranded { kept, .. }) => assert_eq!(weights(&kept), "old"),
            other => panic!("{other:?}"),
        }
        drop(partial);
        assert!(!target.exists());
        // The next process puts it back.
        let partial = Partial::claim(&target, &target).unwrap();
        assert_eq!(weights(&target), "old");
        partial.begin::<()>("other", |_| false).unwrap();
        drop(partial);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn kill_after_two_renames_does_not_block_the_name() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("out");
        let replaced = place_of(&target).join(REPLACED);
        for dir in [&target, &replaced] {
            fs::create_dir_all(dir).unwrap();
            fs::write(dir.join("config.json"), "{}").unwrap();
            fs::write(dir.join("model.safetensors"), "").unwrap();
        }
        fs::write(target.join("weights"), "new").unwrap();
        let write_journal = || {
            let head = Head { format: FORMAT.into(), version: VERSION, job: "job".into() };
            fs::write(place_of(&target).join(JOURNAL), line_of(&head).unwrap()).unwrap();
        };
        write_journal();
        drop(Partial::claim(&target, &target).unwrap());
        assert_eq!(weights(&target), "new");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "the old one is gone");

        // What is no model may be someone's only copy.
        fs::create_dir_all(&replaced).unwrap();
        fs::write(replaced.join("note.txt"), "mine").unwrap();
        write_journal();
        let error = Partial::claim(&target, &target).unwrap_err();
        assert!(matches!(error, FileError::Doubled { .. }), "{error}");
        assert!(replaced.join("note.txt").exists());
    }

    #[test]
    fn what_could_not_be_removed_is_removed_by_the_next_process() {
        let (home, target, partial) = with_both();
        // A directory in which nothing can be removed.
        let stuck = partial.dir.join(LEAVING);
        fs::create_dir(&stuck).unwrap();
        fs::write(stuck.join("file"), "").unwrap();
        let set = |writable: bool| {
            let mut permissions = stuck.metadata().unwrap().permissions();
            permissions.set_readonly(!writable);
            fs::set_permissions(&stuck, permissions).unwrap();
        };
        set(false);
        partial.discard();
        if !stuck.exists() {
            // Root removes it all the same.
            return;
        }
        set(true);
        drop(Partial::claim(&target, &target).unwrap());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn output_that_is_there_loses_what_its_killed_process_left() {
        let (home, target, partial) = with_both();
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
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_renames_replace_and_undo() {
        let (_home, target, partial) = with_both();
        let error = replace_failing(&partial, &target, 1).unwrap_err();
        assert!(matches!(error, FileError::Io { .. }), "{error}");
        assert_eq!(weights(&target), "old");
        fs::rename(partial.dir.join(LEAVING), &partial.model).unwrap();
        replace_failing(&partial, &target, 9).unwrap();
        partial.discard();
        assert_eq!(weights(&target), "new");
    }

    #[test]
    fn what_became_something_else_stays() {
        let (_home, target, partial) = with_both();
        let error = partial.deliver(&target, &target, |_| false).unwrap_err();
        assert!(matches!(error, FileError::OutputForeign { .. }), "{error}");
        assert_eq!([weights(&target), weights(partial.model())], ["old", "new"]);
        partial.deliver(&target, &target, any).unwrap();
        assert_eq!(weights(&target), "new");
    }

    /// After a kill between the exchange and the removal, the old model is in the directory.
    #[test]
    fn what_was_replaced_is_not_resumed() {
        let (_home, target, partial) = with_both();
        partial.deliver(&target, &target, any).unwrap();
        partial.keep();
        drop(partial);
        let partial = Partial::claim(&target, &target).unwrap();
        partial.begin::<()>("job", |_| true).unwrap();
        assert_eq!(fs::read_dir(partial.model()).unwrap().count(), 0);
        assert!(!partial.dir.join(LEAVING).exists());
    }
}
