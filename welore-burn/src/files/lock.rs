use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;

use super::error::FileError;
use super::temporary::is_same;

/// How a file is locked.
pub(super) type TryLock = fn(&File) -> Result<(), TryLockError>;

/// The lock of a directory: a file in it that only one process can hold. The system releases it
/// when the process ends. Where files cannot be locked, as on some network file systems, whoever
/// made the file holds it until it is removed.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// Whether the system knows who holds it.
    pub is_real: bool,
}

impl Lock {
    /// Takes a lock for an output that errors call `named`; `None` if the lock or its directory
    /// disappeared meanwhile.
    pub fn take(path: &Path, named: &Path, try_lock: TryLock) -> Result<Option<Self>, FileError> {
        let (file, is_new) = match open(path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::io(named)(error)),
        };
        let is_real = match try_lock(&file) {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                return Err(FileError::OutputBusy { path: named.into() });
            }
            Err(TryLockError::Error(_)) if is_new => false,
            Err(TryLockError::Error(source)) => {
                return Err(FileError::NotLockable { path: path.into(), source });
            }
        };
        Ok(is_same(&file, path).then_some(Self { file, is_real }))
    }
}

impl Drop for Lock {
    /// A child process has a copy of the open file until it begins its own program, and closing one
    /// copy unlocks nothing.
    fn drop(&mut self) {
        if self.is_real {
            // Closing, which comes next, is the other way.
            let _ = self.file.unlock();
        }
    }
}

/// Opens the file of a lock, and tells whether it is new.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let mut options = File::options();
    // Windows locks nothing that can only be appended to.
    options.read(true).append(true);
    match options.clone().create_new(true).open(path) {
        Ok(file) => Ok((file, true)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            options.open(path).map(|file| (file, false))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_ends_with_its_holder_and_not_with_the_copies_of_its_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lock");
        let take = || Lock::take(&path, &path, File::try_lock);
        let lock = take().unwrap().unwrap();
        let copy = lock.file.try_clone().unwrap();
        assert!(matches!(take(), Err(FileError::OutputBusy { .. })));
        drop(lock);
        assert!(take().unwrap().is_some());
        drop(copy);
    }
}
