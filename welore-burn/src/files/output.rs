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
/// Files are written into a hidden directory beside the target, which
/// [`commit`](OutputDir::commit) renames to the target. If the value is dropped before that, the
/// hidden directory is removed and the target stays as it was.
///
/// A [`resumable`](OutputDir::resumable) directory can be left behind, by
/// [`suspend`](OutputDir::suspend) or if the process is killed. The next one for the same target
/// finds it again.
#[derive(Debug)]
pub struct OutputDir {
    target: PathBuf,
    /// Taken when committed.
    staging: Option<Staging>,
    /// Parents created for it, outermost first.
    made: Vec<PathBuf>,
}

/// Where the files are until they are committed.
#[derive(Debug)]
enum Staging {
    Temporary(TempDir),
    Partial(Partial),
}

/// What an existing output directory must hold to be replaced, so that a typo does not cost a
/// home directory.
const MODEL_MARKS: [[&str; 2]; 2] =
    [["config.json", "model.safetensors"], ["config.json", "model.safetensors.index.json"]];

impl OutputDir {
    /// Prepares to write the directory `target`.
    ///
    /// # Errors
    ///
    /// [`FileError::OutputExists`] if the target exists and `replace` is false;
    /// [`FileError::OutputForeign`] if it is a directory that is neither empty nor a model
    /// directory; [`FileError::NotADirectory`] if it, or a parent, is something else;
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

    /// The same for work that resumes where an earlier process stopped, such as
    /// [`Compressor::directory`](crate::compress::Compressor::directory).
    ///
    /// Files are written into `.NAME.welore-partial` beside the target `NAME`, which only one
    /// process at a time can hold. A later process that works on the same target finds unfinished
    /// output again. It resumes the same work; other work replaces what was left, as soon as it
    /// begins.
    ///
    /// # Errors
    ///
    /// Those of [`create`](OutputDir::create); [`FileError::OutputBusy`] if another process is
    /// writing it; [`FileError::PartialForeign`] if something else has the name of the hidden
    /// directory.
    pub fn resumable(target: impl AsRef<Path>, replace: bool) -> Result<Self, FileError> {
        let mut output = Self::check(target.as_ref(), replace)?;
        output.staging = Some(Staging::Partial(Partial::claim(&output.target)?));
        Ok(output)
    }

    /// Checks that [`create`](OutputDir::create) would accept the target. Creates nothing.
    ///
    /// # Errors
    ///
    /// Those of [`create`](OutputDir::create), except for a parent that cannot be written.
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

    /// Checks the target, and creates its parents.
    fn check(target: &Path, replace: bool) -> Result<Self, FileError> {
        let target = Self::place(target, replace)?;
        let parent = parent_of(&target);
        let mut made: Vec<PathBuf> =
            parent.ancestors().take_while(|dir| !exists(dir)).map(PathBuf::from).collect();
        made.reverse();
        let output = Self { target, staging: None, made };
        // From here on, dropping `output` removes what was created.
        fs::create_dir_all(&parent).map_err(FileError::io(&parent))?;
        Ok(output)
    }

    /// Where to write files until they are committed.
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

    /// Begins a job in a resumable directory, or resumes it. Returns the journal and the parts
    /// that are already finished. Removes everything left by another job, and files that do not
    /// `belong` to this one. `None` if the directory is not resumable.
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

    /// Keeps an unfinished resumable directory, so that a later process can resume it. Any other
    /// directory is removed.
    pub fn suspend(mut self) {
        if let Some(Staging::Partial(partial)) = &self.staging {
            partial.keep();
            self.made.clear();
        }
    }

    /// Renames the directory to the target, replacing what was there.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`], [`FileError::Unsound`]; the target is then unchanged.
    pub fn commit(mut self) -> Result<(), FileError> {
        let target = self.target.clone();
        FileError::check_sound(&target)?;
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
            // Only if it is still empty: a directory that someone else put something in stays.
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
