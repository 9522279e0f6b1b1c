use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;

use super::error::FileError;
use super::place::kind_of;
use super::read::check_fetched;

/// A file mapped into memory: nothing is read until it is accessed.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
    file: File,
    path: PathBuf,
    stamp: Stamp,
}

/// What changes when a file is written to.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    /// `None` where the system does not tell.
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(found: &Metadata) -> Self {
        Self { bytes: found.len(), modified: found.modified().ok() }
    }
}

impl MappedFile {
    /// Maps a file; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`FileError::NotAFile`] for anything but a regular file, [`FileError::LfsPointer`],
    /// [`FileError::Io`].
    pub fn open(path: &Path) -> Result<Option<Self>, FileError> {
        // Asked first, because opening a pipe waits until someone writes to it.
        let found = match path.metadata() {
            Ok(found) => found.file_type(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FileError::Io { path: path.into(), source }),
        };
        if !found.is_file() {
            return Err(FileError::NotAFile { path: path.into(), what: kind_of(found) });
        }
        let file = File::open(path).map_err(FileError::io(path))?;
        let stamp = Stamp::of(&file.metadata().map_err(FileError::io(path))?);
        // SAFETY: the map is only read. If another process truncates the file meanwhile, this
        // process gets SIGBUS, like every reader that maps files; `check_unchanged` finds what
        // was overwritten.
        let map = unsafe { Mmap::map(&file) }.map_err(FileError::io(path))?;
        let mapped = Self { map, file, path: path.into(), stamp };
        mapped.check_unchanged()?;
        check_fetched(path, &mapped)?;
        Ok(Some(mapped))
    }

    /// Checks that nobody has written to the file since it was opened. What was read before is then
    /// what the file held when it was opened.
    ///
    /// # Errors
    ///
    /// [`FileError::Changed`], [`FileError::Io`].
    pub fn check_unchanged(&self) -> Result<(), FileError> {
        let found = self.file.metadata().map_err(FileError::io(&self.path))?;
        match Stamp::of(&found) == self.stamp {
            true => Ok(()),
            false => Err(FileError::Changed { path: self.path.clone() }),
        }
    }

    /// Releases pages that were read. They belong to the file and are loaded again on the next
    /// access; unreleased pages count as memory of this process.
    pub fn release(&self, bytes: Range<usize>) {
        #[cfg(unix)]
        {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is of a file and never written to, so a dropped page is read again
            // from the file, unchanged. A failure only costs memory.
            let _ = unsafe { self.map.unchecked_advise_range(advice, bytes.start, bytes.len()) };
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    #[test]
    fn change_of_a_mapped_file_is_noticed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("weights");
        fs::write(&path, "weights").unwrap();
        let open = || MappedFile::open(&path).unwrap().unwrap();
        let later = |mapped: &MappedFile| {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(mapped.stamp.modified.unwrap() + Duration::from_secs(1)).unwrap();
        };
        let changes: [&dyn Fn(&MappedFile); 3] = [
            &|mapped: &MappedFile| {
                fs::write(&path, "weighty").unwrap();
                later(mapped);
            },
            &|_: &MappedFile| fs::write(&path, "longer than before").unwrap(),
            &|_: &MappedFile| File::options().write(true).open(&path).unwrap().set_len(3).unwrap(),
        ];
        for change in changes {
            let mapped = open();
            mapped.check_unchanged().unwrap();
            change(&mapped);
            let error = mapped.check_unchanged().unwrap_err();
            assert!(matches!(error, FileError::Changed { .. }), "{error}");
        }
        // A file that was replaced or removed is still what it was.
        let mapped = open();
        fs::remove_file(&path).unwrap();
        mapped.check_unchanged().unwrap();
        assert!(MappedFile::open(&path).unwrap().is_none());
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_mapped() {
        let home = tempfile::tempdir().unwrap();
        let pipe = home.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, what) in [(&*pipe, "a named pipe"), (home.path(), "a directory")] {
            let error = MappedFile::open(path).unwrap_err();
            assert_eq!(error.to_string(), format!("{} is {what}", path.display()));
        }
    }
}
