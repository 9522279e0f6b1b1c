use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::{Builder, TempDir};

use super::error::FileError;
use super::partial::{Journal, Partial};
use super::write::{TEMPORARY, directory_mode, parent_of, plain, sync_dir};

/// A directory that appears whole or not at all.
///
/// Files are written into a hidden directory beside the target, which takes the target's
/// name in [`commit`](OutputDir::commit). Dropped before that, it is removed and the target
/// stays as it was.
///
/// A [`resumable`](OutputDir::resumable) one can be left behind, by
/// [`suspend`](OutputDir::suspend) or by a kill, and is found again by the next one for the same
/// target.
#[derive(Debug)]
pub struct OutputDir {
    target: PathBuf,
    /// Taken when committed.
    staging: Option<Staging>,
    /// Parents that were made for it, outermost first.
    made: Vec<PathBuf>,
}

/// Where the files are meanwhile.
#[derive(Debug)]
enum Staging {
    Temporary(TempDir),
    Partial(Partial),
}

/// What an existing output directory must hold to be replaced, so that a slip of the hand
/// does not cost a home directory.
const MODEL_MARKS: [[&str; 2]; 2] =
    [["config.json", "model.safetensors"], ["config.json", "model.safetensors.index.json"]];

impl OutputDir {
    /// Prepares to write the directory `target`.
    ///
    /// # Errors
    ///
    /// [`FileError::OutputExists`] if there is something and `replace` is false;
    /// [`FileError::OutputForeign`] if there is a directory that is neither a model's nor
    /// empty; [`FileError::NotADirectory`] if there is something else, or a parent is;
    /// [`FileError::Io`] if its parent cannot be written.
    pub fn create(target: impl AsRef<Path>, replace: bool) -> Result<Self, FileError> {
        let mut output = Self::check(target.as_ref(), replace)?;
        let parent = parent_of(&output.target);
        let staging = Builder::new()
            .prefix(TEMPORARY)
            .suffix(".partial")
            .permissions(directory_mode())
            .tempdir_in(&parent)
            .map_err(|error| FileError::io(&parent)(plain(error)))?;
        output.staging = Some(Staging::Temporary(staging));
        Ok(output)
    }

    /// The same for work that goes on where an earlier process was stopped, such as
    /// [`compress_directory`](crate::compress::Compressor).
    ///
    /// Files are written into `.NAME.welore-partial` beside the target `NAME`, which one process
    /// at a time can hold. An unfinished one is found again by whoever works on the same target.
    /// It is gone on when the same work is asked for, and replaced by other work, as soon as
    /// that begins.
    ///
    /// # Errors
    ///
    /// Those of [`create`](OutputDir::create); [`FileError::OutputBusy`] if another
    /// process is at it; [`FileError::PartialForeign`] if something else has its name.
    pub fn resumable(target: impl AsRef<Path>, replace: bool) -> Result<Self, FileError> {
        let mut output = Self::check(target.as_ref(), replace)?;
        output.staging = Some(Staging::Partial(Partial::claim(&output.target)?));
        Ok(output)
    }

    /// Checks that [`create`](OutputDir::create) would find nothing in its way, and makes nothing.
    ///
    /// # Errors
    ///
    /// Those of [`create`](OutputDir::create), but for a parent that cannot be written.
    pub fn check_free(target: impl AsRef<Path>, replace: bool) -> Result<(), FileError> {
        Self::place(target.as_ref(), replace).map(drop)
    }

    /// The target as a plain path, if it is free or may be replaced.
    fn place(target: &Path, replace: bool) -> Result<PathBuf, FileError> {
        // `a/b/` and `a/b` are the same place; a trailing slash would hide the parent.
        let target: PathBuf = target.components().collect();
        if let Some(there) = target.ancestors().find(|path| exists(path))
            && !there.as_os_str().is_empty()
            && !there.is_dir()
        {
            return Err(FileError::NotADirectory { path: there.into() });
        }
        if target.symlink_metadata().is_ok() && !is_empty_dir(&target) {
            if !MODEL_MARKS.iter().any(|marks| marks.iter().all(|f| target.join(f).is_file())) {
                return Err(FileError::OutputForeign { path: target });
            }
            if !replace {
                return Err(FileError::OutputExists { path: target });
            }
        }
        Ok(target)
    }

    /// Checks the target, and makes its parents.
    fn check(target: &Path, replace: bool) -> Result<Self, FileError> {
        let target = Self::place(target, replace)?;
        let parent = parent_of(&target);
        let mut made: Vec<PathBuf> =
            parent.ancestors().take_while(|dir| !exists(dir)).map(PathBuf::from).collect();
        made.reverse();
        let output = Self { target, staging: None, made };
        // From here on dropping `output` removes what was made.
        fs::create_dir_all(&parent).map_err(FileError::io(&parent))?;
        Ok(output)
    }

    /// Where to write files meanwhile.
    pub fn path(&self) -> &Path {
        match self.staging.as_ref().expect("there until committed") {
            Staging::Temporary(dir) => dir.path(),
            Staging::Partial(partial) => partial.model(),
        }
    }

    /// Names the target in an error about a file that is still being prepared.
    pub fn name_target(&self, error: FileError) -> FileError {
        let ours = |path: &Path| match &self.staging {
            Some(Staging::Partial(partial)) => partial.holds(path),
            _ => path.starts_with(self.path()),
        };
        match error {
            FileError::Io { path, source } if ours(&path) => {
                FileError::Io { path: self.target.clone(), source }
            }
            other => other,
        }
    }

    /// Begins a job in a resumable directory, or goes on with it: tells what is finished, and
    /// takes notes. What is there of another job goes, and of this one files that do not
    /// `belong` to it. `None` if the directory is not resumable.
    pub(crate) fn begin<T: DeserializeOwned + Serialize>(
        &self,
        job: &str,
        belongs: impl Fn(&str) -> bool,
    ) -> Result<Option<(Journal, Vec<T>)>, FileError> {
        match &self.staging {
            Some(Staging::Partial(partial)) => partial.begin(job, belongs).map(Some),
            _ => Ok(None),
        }
    }

    /// Leaves what is written of a resumable directory for a later process to go on with. Any
    /// other one is removed.
    pub fn suspend(mut self) {
        if let Some(Staging::Partial(partial)) = &self.staging {
            partial.keep();
            self.made.clear();
        }
    }

    /// Gives the directory its name, replacing what was there.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`]; what was there is then still there.
    pub fn commit(mut self) -> Result<(), FileError> {
        let target = self.target.clone();
        let io = || FileError::io(target.clone());
        let put = |staging: &Path| fs::rename(staging, &target);
        if target.symlink_metadata().is_err() {
            put(self.path()).map_err(io())?;
        } else {
            let old = Builder::new()
                .prefix(TEMPORARY)
                .suffix(".old")
                .tempdir_in(parent_of(&target))
                .map_err(|error| io()(plain(error)))?;
            let kept = old.path().join("model");
            fs::rename(&target, &kept).map_err(io())?;
            if let Err(source) = put(self.path()) {
                fs::rename(&kept, &target).map_err(io())?;
                return Err(FileError::Io { path: target, source });
            }
        }
        self.made.clear();
        match self.staging.take() {
            Some(Staging::Temporary(dir)) => {
                let _renamed = dir.keep();
            }
            Some(Staging::Partial(partial)) => partial.discard(),
            None => {}
        }
        sync_dir(&parent_of(&target))
    }
}

impl Drop for OutputDir {
    fn drop(&mut self) {
        drop(self.staging.take());
        for dir in self.made.iter().rev() {
            // Only ours: a directory that someone else put something in stays.
            let _ = fs::remove_dir(dir);
        }
    }
}

fn exists(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.symlink_metadata().is_ok()
}

fn is_empty_dir(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}
