use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::{Builder, NamedTempFile, TempDir};

use super::error::CheckpointError;
use super::partial::{Journal, Partial};

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
    /// [`CheckpointError::OutputExists`] if there is something and `replace` is false;
    /// [`CheckpointError::OutputForeign`] if there is a directory that is neither a model's nor
    /// empty; [`CheckpointError::NotADirectory`] if there is something else, or a parent is;
    /// [`CheckpointError::Io`] if its parent cannot be written.
    pub fn create(target: impl AsRef<Path>, replace: bool) -> Result<Self, CheckpointError> {
        let mut output = Self::check(target.as_ref(), replace)?;
        let parent = parent_of(&output.target);
        let staging = Builder::new()
            .prefix(TEMPORARY)
            .suffix(".partial")
            .permissions(directory_mode())
            .tempdir_in(&parent)
            .map_err(|error| CheckpointError::io(&parent)(plain(error)))?;
        output.staging = Some(Staging::Temporary(staging));
        Ok(output)
    }

    /// The same for work that goes on where an earlier process was stopped, such as
    /// [`compress_directory`](crate::surgery::compress_directory).
    ///
    /// Files are written into `.NAME.welore-partial` beside the target `NAME`, which one process
    /// at a time can hold. An unfinished one is found again by whoever works on the same target.
    /// It is gone on when the same work is asked for, and replaced by other work, as soon as
    /// that begins.
    ///
    /// # Errors
    ///
    /// Those of [`create`](OutputDir::create); [`CheckpointError::OutputBusy`] if another
    /// process is at it; [`CheckpointError::PartialForeign`] if something else has its name.
    pub fn resumable(target: impl AsRef<Path>, replace: bool) -> Result<Self, CheckpointError> {
        let mut output = Self::check(target.as_ref(), replace)?;
        output.staging = Some(Staging::Partial(Partial::claim(&output.target)?));
        Ok(output)
    }

    /// Checks that [`create`](OutputDir::create) would find nothing in its way, and makes nothing.
    ///
    /// # Errors
    ///
    /// Those of [`create`](OutputDir::create), but for a parent that cannot be written.
    pub fn check_free(target: impl AsRef<Path>, replace: bool) -> Result<(), CheckpointError> {
        Self::place(target.as_ref(), replace).map(drop)
    }

    /// The target as a plain path, if it is free or may be replaced.
    fn place(target: &Path, replace: bool) -> Result<PathBuf, CheckpointError> {
        // `a/b/` and `a/b` are the same place; a trailing slash would hide the parent.
        let target: PathBuf = target.components().collect();
        if let Some(there) = target.ancestors().find(|path| exists(path))
            && !there.as_os_str().is_empty()
            && !there.is_dir()
        {
            return Err(CheckpointError::NotADirectory { path: there.into() });
        }
        if target.symlink_metadata().is_ok() && !is_empty_dir(&target) {
            if !MODEL_MARKS.iter().any(|marks| marks.iter().all(|f| target.join(f).is_file())) {
                return Err(CheckpointError::OutputForeign { path: target });
            }
            if !replace {
                return Err(CheckpointError::OutputExists { path: target });
            }
        }
        Ok(target)
    }

    /// Checks the target, and makes its parents.
    fn check(target: &Path, replace: bool) -> Result<Self, CheckpointError> {
        let target = Self::place(target, replace)?;
        let parent = parent_of(&target);
        let mut made: Vec<PathBuf> =
            parent.ancestors().take_while(|dir| !exists(dir)).map(PathBuf::from).collect();
        made.reverse();
        let output = Self { target, staging: None, made };
        // From here on dropping `output` removes what was made.
        fs::create_dir_all(&parent).map_err(CheckpointError::io(&parent))?;
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
    pub fn name_target(&self, error: CheckpointError) -> CheckpointError {
        let ours = |path: &Path| match &self.staging {
            Some(Staging::Partial(partial)) => partial.holds(path),
            _ => path.starts_with(self.path()),
        };
        match error {
            CheckpointError::Io { path, source } if ours(&path) => {
                CheckpointError::Io { path: self.target.clone(), source }
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
    ) -> Result<Option<(Journal, Vec<T>)>, CheckpointError> {
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
    /// [`CheckpointError::Io`]; what was there is then still there.
    pub fn commit(mut self) -> Result<(), CheckpointError> {
        let target = self.target.clone();
        let io = || CheckpointError::io(target.clone());
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
                return Err(CheckpointError::Io { path: target, source });
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

/// Names of what is being prepared begin with this.
pub(super) const TEMPORARY: &str = ".welore-";

fn exists(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.symlink_metadata().is_ok()
}

/// The operating system's own error in an error of the tempfile crate, which would name a
/// temporary path that means nothing to the user.
fn plain(error: std::io::Error) -> std::io::Error {
    let inner = error.get_ref().and_then(|e| e.source());
    let code = inner
        .and_then(|e| e.downcast_ref::<std::io::Error>())
        .and_then(std::io::Error::raw_os_error);
    code.map_or(error, std::io::Error::from_raw_os_error)
}

/// How the names of files begin that a derived model keeps: configuration, tokenizer and
/// licence.
const COMPANIONS: [&str; 12] = [
    "config.json",
    "generation_config.json",
    "tokenizer",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template",
    "licen",
    "notice",
    "copying",
    "use_policy",
];

/// Copies configuration, tokenizer and licence from one model directory to another, as far
/// as they are there.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn copy_companions(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    let io = || CheckpointError::io(from);
    for entry in fs::read_dir(from).map_err(io())? {
        let entry = entry.map_err(io())?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let source = entry.path();
        if source.is_file() && COMPANIONS.iter().any(|start| name.starts_with(start)) {
            let content = fs::read(&source).map_err(CheckpointError::io(&source))?;
            write_file(to.join(entry.file_name()), &content)?;
        }
    }
    Ok(())
}

/// Writes a file so that a reader, or a crash, sees the old content or the new, never half.
///
/// # Errors
///
/// [`CheckpointError::Io`], with the path.
pub fn write_file(path: impl AsRef<Path>, content: &[u8]) -> Result<(), CheckpointError> {
    let path = path.as_ref();
    let parent = parent_of(path);
    let io = || CheckpointError::io(path);
    let mut file = Builder::new()
        .prefix(TEMPORARY)
        .permissions(file_mode())
        .tempfile_in(&parent)
        .map_err(|error| io()(plain(error)))?;
    // Through the file itself: tempfile's own writer would name the temporary path.
    file.as_file_mut().write_all(content).map_err(io())?;
    persist(file, path)
}

/// Syncs a temporary file and gives it its name.
pub(super) fn persist(file: NamedTempFile, path: &Path) -> Result<(), CheckpointError> {
    file.as_file().sync_all().map_err(CheckpointError::io(path))?;
    file.persist(path)
        .map_err(|error| CheckpointError::Io { path: path.into(), source: error.error })?;
    sync_dir(&parent_of(path))
}

pub(super) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

fn is_empty_dir(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Renames survive a power cut only when their directory is synced.
pub(super) fn sync_dir(path: &Path) -> Result<(), CheckpointError> {
    if cfg!(unix) {
        let dir = File::open(path).map_err(CheckpointError::io(path))?;
        dir.sync_all().map_err(CheckpointError::io(path))?;
    }
    Ok(())
}

/// Temporary files are private by default; results get the usual permissions, less the umask.
#[cfg(unix)]
pub(super) fn file_mode() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

#[cfg(unix)]
fn directory_mode() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o777)
}

#[cfg(not(unix))]
pub(super) fn file_mode() -> fs::Permissions {
    fs::metadata(".").expect("the working directory exists").permissions()
}

#[cfg(not(unix))]
fn directory_mode() -> fs::Permissions {
    file_mode()
}
