use std::fs::File;
use std::io::ErrorKind;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

use super::error::FileError;

/// A file mapped into memory: nothing is read until it is accessed.
#[derive(Debug)]
pub struct MappedFile(Mmap);

impl MappedFile {
    /// Maps a file; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`].
    pub fn open(path: &Path) -> Result<Option<Self>, FileError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError::Io { path: path.into(), source }),
        };
        // SAFETY: the map is only read. If another process truncates the file meanwhile, this
        // process ends with SIGBUS, like every reader that maps files.
        let map = unsafe { Mmap::map(&file) }.map_err(FileError::io(path))?;
        Ok(Some(Self(map)))
    }

    /// Releases pages that were read. They belong to the file and are loaded again on the next
    /// access; unreleased pages count as memory of this process.
    pub fn release(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is of a file and never written to, so a dropped page is read again
            // from the file, unchanged. A failure only costs memory.
            let _ = unsafe { self.0.unchecked_advise_range(advice, bytes.start, bytes.len()) };
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
