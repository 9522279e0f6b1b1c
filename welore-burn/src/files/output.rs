use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::FileError;
use super::journal::Journal;
use super::model_dir::{foreign_in, is_empty_dir, is_model, may_go};
use super::partial::Partial;
use super::place::{find_dir, is_within, mount_within};
use super::write::{parent_of, sync_dir};

/// A directory that appears whole or not at all.
///
/// Files are written into a hidden directory beside the target, `.NAME.welore-partial`, which only
/// one process at a time can hold. [`commit`](OutputDir::commit) gives them the name of the target.
/// If the value is dropped before that, the hidden directory is removed and the target stays as it
/// was.
///
/// A [`resumable`](OutputDir::resumable) directory is left behind by
/// [`suspend`](OutputDir::suspend), once something is finished in it also by an error, and of
/// course if the process is killed. The next one for the same target finds it again.
///
/// A target that is a link to a directory stands for that directory.
#[derive(Debug)]
pub struct OutputDir {
    /// As the user gave it, for messages.
    named: PathBuf,
    /// Without links.
    target: PathBuf,
    replace: bool,
    resumable: bool,
    /// Where the files are; taken when committed.
    partial: Option<Partial>,
    /// Parents created for it, outermost first.
    made: Vec<PathBuf>,
}

impl OutputDir {
    /// Prepares to write the directory `target`. What an unfinished run left of it is removed;
    /// finished parts of a [`resumable`](OutputDir::resumable) directory only when this one is
    /// committed, so that an error before that does not cost them.
    ///
    /// # Errors
    ///
    /// [`FileError::OutputExists`] if the target exists and `replace` is false;
    /// [`FileError::OutputForeign`] if it is a directory that is neither empty nor a model
    /// directory; [`FileError::OutputHolds`] if it is one that also holds what no model directory
    /// does, such as the directory of a run; [`FileError::NotADirectory`] if it, or a parent, is
    /// something else; [`FileError::MountPoint`] and [`FileError::WorkingDirectory`] if it cannot
    /// be replaced;
    /// [`FileError::Unnamed`] if no directory can have this path; [`FileError::OutputBusy`] if
    /// another process is writing it, [`FileError::NotLockable`] if that cannot be told;
    /// [`FileError::PartialForeign`] if something else has the name of the hidden directory, and
    /// [`FileError::Doubled`] if there is something in it that cannot be put back;
    /// [`FileError::Io`] if its parent cannot be written.
    pub fn create(target: impl AsRef<Path>, replace: bool) -> Result<Self, FileError> {
        let mut output = Self::claim(target.as_ref(), replace, false)?;
        let begun = match &mut output.partial {
            Some(partial) => partial.begin_whole("directory"),
            None => Ok(()),
        };
        begun.map_err(|error| output.name_target(error))?;
        Ok(output)
    }

    /// The same for work that resumes where an earlier process stopped, such as
    /// [`Compressor::directory`](crate::compress::Compressor::directory).
    ///
    /// A later process that works on the same target finds unfinished output again. It resumes the
    /// same work. Other work replaces what was left: as soon as it begins if it can be resumed
    /// itself, else when it is committed.
    ///
    /// # Errors
    ///
    /// Those of [`create`](OutputDir::create).
    pub fn resumable(target: impl AsRef<Path>, replace: bool) -> Result<Self, FileError> {
        Self::claim(target.as_ref(), replace, true)
    }

    /// Checks that [`create`](OutputDir::create) would accept the target. Creates nothing.
    ///
    /// # Errors
    ///
    /// Those of [`create`](OutputDir::create), except for those about the parent and the hidden
    /// directory.
    pub fn check_free(target: impl AsRef<Path>, replace: bool) -> Result<(), FileError> {
        Self::place(target.as_ref(), replace).map(drop)
    }

    /// Checks that nothing that is read is inside an existing target, which would be replaced with
    /// everything in it.
    ///
    /// # Errors
    ///
    /// [`FileError::InputInside`].
    pub fn check_outside(target: impl AsRef<Path>, inputs: &[&Path]) -> Result<(), FileError> {
        let target = target.as_ref();
        let is_inside = |input: &&&Path| {
            // Of a link, both what it leads to and the link itself.
            let holder = input.file_name().map(|_| parent_of(input));
            is_within(input, target) || holder.is_some_and(|holder| is_within(&holder, target))
        };
        match inputs.iter().find(is_inside) {
            Some(input) => {
                Err(FileError::InputInside { input: input.to_path_buf(), output: target.into() })
            }
            None => Ok(()),
        }
    }

    /// The target as a plain path, if it is free or may be replaced.
    fn place(named: &Path, replace: bool) -> Result<PathBuf, FileError> {
        let plain: PathBuf = named.components().collect();
        if let Some(there) = plain.ancestors().find(|path| exists(path))
            && !there.as_os_str().is_empty()
            && !there.is_dir()
        {
            return Err(FileError::NotADirectory { path: there.into() });
        }
        let target = find_dir(named)?;
        check_replaceable(&plain, &target, replace)?;
        Ok(target)
    }

    /// Checks the target, creates its parents and the hidden directory.
    fn claim(named: &Path, replace: bool, resumable: bool) -> Result<Self, FileError> {
        let target = match Self::place(named, replace) {
            Err(error @ FileError::OutputExists { .. }) => {
                sweep_finished(named);
                return Err(error);
            }
            place => place?,
        };
        // `a/b/` and `a/b` are the same place.
        let named: PathBuf = named.components().collect();
        let parent = parent_of(&target);
        let mut made: Vec<PathBuf> =
            parent.ancestors().take_while(|dir| !exists(dir)).map(PathBuf::from).collect();
        made.reverse();
        let mut output = Self { named, target, replace, resumable, partial: None, made };
        // From here on, dropping `output` removes what was created.
        fs::create_dir_all(&parent).map_err(FileError::io(&output.named))?;
        output.partial = Some(Partial::claim(&output.target, &output.named, may_go)?);
        // Another process may have finished it meanwhile.
        check_replaceable(&output.named, &output.target, replace)?;
        Ok(output)
    }

    fn partial(&self) -> &Partial {
        self.partial.as_ref().expect("there until committed")
    }

    /// Where to write files until they are committed.
    pub fn path(&self) -> &Path {
        self.partial().model()
    }

    /// Names the target in an error about a file that is still being prepared.
    pub fn name_target(&self, error: FileError) -> FileError {
        self.partial().name_target(error, &self.named)
    }

    /// Begins a job in a resumable directory, or resumes it. Returns the journal and the parts
    /// that are already finished. Removes everything left by another job, and files that do not
    /// `belong` to this one. `None` if the directory is not resumable.
    pub(crate) fn begin<T: DeserializeOwned + Serialize>(
        &self,
        job: &str,
        belongs: impl Fn(&str) -> bool,
    ) -> Result<Option<(Journal, Vec<T>)>, FileError> {
        if !self.resumable {
            return Ok(None);
        }
        let begun = self.partial().begin(job, belongs);
        begun.map(Some).map_err(|error| self.name_target(error))
    }

    /// The hidden directory, if it is resumable and a part of the present job is finished in it.
    /// Dropping this value then leaves it in place, also after an error.
    pub fn keeps_work(&self) -> Option<&Path> {
        self.partial.as_ref().filter(|partial| partial.has_parts()).map(Partial::dir)
    }

    /// Keeps an unfinished resumable directory, so that a later process can resume it. Any other
    /// directory is removed.
    pub fn suspend(self) {
        if self.resumable {
            self.partial().keep();
        }
    }

    /// Gives the files the name of the target, replacing what was there. Where the system can, both
    /// are exchanged in one step, so that the name always stands for one of them.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`], [`FileError::Unsound`], and those of [`create`](OutputDir::create) if the
    /// target is no longer what it was; the target is then unchanged. [`FileError::Stranded`] if it
    /// can neither be replaced nor left as it was.
    pub fn commit(mut self) -> Result<(), FileError> {
        FileError::check_sound(&self.target)?;
        check_replaceable(&self.named, &self.target, self.replace)?;
        self.partial().deliver(&self.target, &self.named, may_go)?;
        self.made.clear();
        let synced = sync_dir(&parent_of(&self.target));
        if let Some(partial) = self.partial.take() {
            partial.discard();
        }
        synced
    }
}

impl Drop for OutputDir {
    fn drop(&mut self) {
        drop(self.partial.take());
        for dir in self.made.iter().rev() {
            // Only if it is still empty: a directory with something in it stays.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Checks that a target, which the user named `named`, is free or may be replaced.
fn check_replaceable(named: &Path, target: &Path, replace: bool) -> Result<(), FileError> {
    if target.symlink_metadata().is_err() {
        return Ok(());
    }
    let is_empty = is_empty_dir(target);
    if !is_empty && !is_model(target) {
        return Err(FileError::OutputForeign { path: named.into() });
    }
    if let Some(mount) = mount_within(target) {
        let path = if mount == target { named.into() } else { mount };
        return Err(FileError::MountPoint { path });
    }
    let working = std::env::current_dir().and_then(|dir| dir.canonicalize());
    if working.is_ok_and(|dir| dir.starts_with(target)) {
        return Err(FileError::WorkingDirectory { path: named.into() });
    }
    if let Some(name) = foreign_in(target) {
        return Err(FileError::OutputHolds { path: named.into(), held: named.join(name) });
    }
    if !replace && !is_empty {
        return Err(FileError::OutputExists { path: named.into() });
    }
    Ok(())
}

/// Removes what a process left that was killed after its output had its name.
fn sweep_finished(named: &Path) {
    if let Ok(target) = find_dir(named)
        && Partial::is_finished(&target)
        && let Ok(partial) = Partial::claim(&target, named, may_go)
    {
        partial.discard();
    }
}

fn exists(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.symlink_metadata().is_ok()
}
