use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use super::error::FileError;

/// Temporary names begin with this.
pub(super) const TEMPORARY: &str = ".welore-";

/// Writes a file so that readers see either the old or the new content, never a part, even after
/// a crash.
///
/// # Errors
///
/// [`FileError::Io`], with the path; [`FileError::Unsound`].
pub fn write_file(path: impl AsRef<Path>, content: &[u8]) -> Result<(), FileError> {
    let path = path.as_ref();
    let io = || FileError::io(path);
    let mut file = Builder::new()
        .prefix(TEMPORARY)
        .permissions(file_mode())
        .tempfile_in(parent_of(path))
        .map_err(|error| io()(plain(error)))?;
    // Writes to the file itself: errors of tempfile's own writer would name the temporary path.
    file.as_file_mut().write_all(content).map_err(io())?;
    persist(file, path)
}

/// Syncs a temporary file and gives it its name.
fn persist(file: NamedTempFile, path: &Path) -> Result<(), FileError> {
    FileError::check_sound(path)?;
    file.as_file().sync_all().map_err(FileError::io(path))?;
    file.persist(path).map_err(|error| FileError::Io { path: path.into(), source: error.error })?;
    sync_dir(&parent_of(path))
}

/// The directory that holds a path.
pub(crate) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.into(),
        _ => ".".into(),
    }
}

/// A rename survives a power cut only once its directory is synced.
pub(crate) fn sync_dir(path: &Path) -> Result<(), FileError> {
    if cfg!(unix) {
        let dir = File::open(path).map_err(FileError::io(path))?;
        dir.sync_all().map_err(FileError::io(path))?;
    }
    Ok(())
}

/// The operating system's error within an error of the tempfile crate, which would name a
/// temporary path that means nothing to the user.
pub(super) fn plain(error: std::io::Error) -> std::io::Error {
    let inner = error.get_ref().and_then(|e| e.source());
    let code = inner
        .and_then(|e| e.downcast_ref::<std::io::Error>())
        .and_then(std::io::Error::raw_os_error);
    code.map_or(error, std::io::Error::from_raw_os_error)
}

/// Temporary files are private by default; results get the usual permissions minus the umask.
#[cfg(unix)]
pub(super) fn file_mode() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}

/// The same for directories.
#[cfg(unix)]
pub(super) fn directory_mode() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o777)
}

#[cfg(not(unix))]
pub(super) fn file_mode() -> fs::Permissions {
    fs::metadata(".").expect("the working directory exists").permissions()
}

#[cfg(not(unix))]
pub(super) fn directory_mode() -> fs::Permissions {
    file_mode()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::files::OutputDir;
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
        SPOILED.set(true);
        for name in ["file", "new"] {
            let error = write_file(path(name), b"garbage").unwrap_err();
            assert!(matches!(error, FileError::Unsound { .. }), "{error}");
        }
        assert!(matches!(output.commit(), Err(FileError::Unsound { .. })));
        SPOILED.set(false);
        let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["file"]);
        assert_eq!(fs::read(path("file")).unwrap(), b"sound");
        write_file(path("file"), b"new").unwrap();
    }
}
