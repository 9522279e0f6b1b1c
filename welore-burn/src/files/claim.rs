//! Output files that one process at a time works for.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::error::FileError;
use super::lock::Lock;
use super::place::{FilePlace, find_file};
use super::temporary::{WRITER, stem_of};
use super::write::{check_writable, parent_of};

/// The claim to write a file, so that of two processes with the same output the second one stops
/// before its work, not after it. It is an empty hidden file beside the output, locked as long as
/// this value lives, and removed with it.
///
/// Who writes the file needs no claim: [`write_file`](super::write_file) asks for none.
#[derive(Debug)]
pub struct FileClaim(Option<(Lock, PathBuf)>);

impl FileClaim {
    /// Claims a path. What is not replaced, such as a device, is nobody's.
    ///
    /// # Errors
    ///
    /// [`FileError::OutputBusy`] if another process has claimed it, [`FileError::NotLockable`] if
    /// that cannot be told; those of [`check_writable`].
    pub fn take(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        check_writable(path)?;
        let FilePlace::File(target) = find_file(path)? else { return Ok(Self(None)) };
        let mut name = stem_of(&target);
        name.push(WRITER);
        let place = parent_of(&target).join(name);
        // Another process may give its claim up between any two of these lines.
        for _ in 0..100 {
            if let Some(lock) = Lock::take(&place, path, File::try_lock)? {
                return Ok(Self(Some((lock, place))));
            }
        }
        Err(FileError::OutputBusy { path: path.into() })
    }
}

impl Drop for FileClaim {
    fn drop(&mut self) {
        if let Some((lock, place)) = self.0.take() {
            // While it is locked: afterwards it may be another process's.
            let _ = fs::remove_file(place);
            drop(lock);
        }
    }
}
