use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::error::FileError;
use super::place::{FilePlace, find_file};
use super::temporary::create_beside;

/// Writes a file so that readers see either the old or the new content, never a part, even after
/// a crash.
///
/// Links are followed. A character device, or on Linux something that this process has open, such
/// as `/dev/stdout`, gets the bytes as they come.
///
/// # Errors
///
/// [`FileError::Io`], with the path; [`FileError::Unsound`]; [`FileError::NotAFile`] for a
/// directory and for a device, pipe or socket that no file can take the place of;
/// [`FileError::MountPoint`]; [`FileError::Unnamed`].
pub fn write_file(path: impl AsRef<Path>, content: &[u8]) -> Result<(), FileError> {
    let path = path.as_ref();
    let mut stream = match find_file(path)? {
        FilePlace::File(end) => return replace(path, &end, content),
        FilePlace::Device => File::options().write(true).open(path).map_err(FileError::io(path))?,
        FilePlace::Open(open) => open,
    };
    FileError::check_sound(path)?;
    stream.write_all(content).map_err(FileError::io(path))
}

/// Like [`write_file`], but never writes to another place than `path`: a link there is replaced.
/// This is for files in directories that may have been made by someone else.
///
/// # Errors
///
/// [`FileError::Io`], with the path; [`FileError::Unsound`].
pub fn replace_file(path: impl AsRef<Path>, content: &[u8]) -> Result<(), FileError> {
    let path = path.as_ref();
    replace(path, path, content)
}

/// Checks that [`write_file`] would accept the path, before any work is done for it. Leaves nothing
/// behind.
///
/// # Errors
///
/// Those of [`write_file`]; [`FileError::NoParent`] and [`FileError::NotADirectory`] if there is no
/// directory for the file.
pub fn check_writable(path: impl AsRef<Path>) -> Result<(), FileError> {
    let path = path.as_ref();
    match find_file(path)? {
        FilePlace::File(end) => check_parent(path, &parent_of(&end)),
        FilePlace::Device => check_device(path),
        FilePlace::Open(_) => Ok(()),
    }
}

fn check_parent(path: &Path, parent: &Path) -> Result<(), FileError> {
    match parent.metadata() {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(FileError::NotADirectory { path: parent.into() }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(FileError::NoParent { path: path.into() });
        }
        Err(error) => return Err(FileError::io(path)(error)),
    }
    // The file has no name, where the system can do that.
    tempfile::tempfile_in(parent).map(drop).map_err(FileError::io(path))
}

#[cfg(unix)]
fn check_device(path: &Path) -> Result<(), FileError> {
    use nix::unistd::{AccessFlags, access};

    access(path, AccessFlags::W_OK).map_err(|error| FileError::io(path)(error.into()))
}

#[cfg(not(unix))]
fn check_device(_path: &Path) -> Result<(), FileError> {
    Ok(())
}

/// Puts a new file at `end`, which the user named `path`.
fn replace(path: &Path, end: &Path, content: &[u8]) -> Result<(), FileError> {
    let io = || FileError::io(path);
    FileError::check_sound(path)?;
    let mut file = create_beside(end).map_err(io())?;
    // Writes to the file itself: errors of tempfile's own writer would name the temporary path.
    file.as_file_mut().write_all(content).map_err(io())?;
    file.as_file().sync_all().map_err(io())?;
    file.persist(end).map_err(|error| io()(error.error))?;
    sync_dir(&parent_of(end))
}

/// The directory that holds a path.
pub(super) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

/// A rename survives a power cut only once its directory is synced.
pub(crate) fn sync_dir(path: &Path) -> Result<(), FileError> {
    if !cfg!(unix) {
        return Ok(());
    }
    match File::open(path) {
        Ok(dir) => dir.sync_all().map_err(FileError::io(path)),
        // Some directories may be written but not read.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(FileError::io(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;
    use crate::files::{OutputDir, StagedFile};
    use crate::progress::doubt_if;

    thread_local! {
        /// Of this thread alone, since other tests write files as well.
        static SPOILED: Cell<bool> = const { Cell::new(false) };
    }

    #[test]
    fn results_that_may_be_wrong_are_not_written() {
        doubt_if(|| SPOILED.get());
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        write_file(path("file"), b"sound").unwrap();
        let output = OutputDir::create(path("model"), false).unwrap();
        write_file(output.path().join("config.json"), b"{}").unwrap();
        let staged = StagedFile::create(&path("seen")).unwrap();
        fs::write(staged.dir().join("file"), "garbage").unwrap();
        SPOILED.set(true);
        for name in ["file", "new"] {
            let error = write_file(path(name), b"garbage").unwrap_err();
            assert!(matches!(error, FileError::Unsound { .. }), "{error}");
        }
        assert!(matches!(output.commit(), Err(FileError::Unsound { .. })));
        assert!(matches!(staged.commit("file"), Err(FileError::Unsound { .. })));
        SPOILED.set(false);
        let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["file"]);
        assert_eq!(fs::read(path("file")).unwrap(), b"sound");
        write_file(path("file"), b"new").unwrap();
    }
}
