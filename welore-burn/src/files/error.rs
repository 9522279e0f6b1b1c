use std::path::{Path, PathBuf};

use crate::progress::{Unsound, check_sound};

use bytesize::ByteSize;

/// What can be wrong with a file or an output directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is larger than any of its kind should be.
    #[error("{path} is larger than {}", ByteSize(*largest).display().iec(), path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes that are read.
        largest: u64,
    },
    /// What Git LFS leaves in the place of a large file until it is fetched.
    #[error("{path}: a Git LFS pointer, not the file itself", path = path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// What was computed for it may be wrong.
    #[error("{path}: {source}", path = path.display())]
    Unsound {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: Unsound,
    },
    /// The output exists and should not be replaced.
    #[error("{path} already exists", path = path.display())]
    OutputExists {
        /// The output directory.
        path: PathBuf,
    },
    /// The output directory, or a parent of it, exists but is not a directory.
    #[error("{path} is not a directory", path = path.display())]
    NotADirectory {
        /// The file, or the broken link.
        path: PathBuf,
    },
    /// Another process is writing the same output.
    #[error("{path}: another process is writing it", path = path.display())]
    OutputBusy {
        /// The output directory.
        path: PathBuf,
    },
    /// Something else has the name under which unfinished output would be kept. It is left alone.
    #[error("{path} is in the way; it is not from an unfinished run", path = path.display())]
    PartialForeign {
        /// Where unfinished output would be kept.
        path: PathBuf,
    },
    /// The output path holds something that is never replaced.
    #[error("{path} is not a model directory, so it is not replaced", path = path.display())]
    OutputForeign {
        /// The output path.
        path: PathBuf,
    },
    /// The output directory holds a model, and something that no model directory does.
    #[error("{path} holds more than a model, so it is not replaced: {held}", path = path.display(), held = held.display())]
    OutputHolds {
        /// The output directory.
        path: PathBuf,
        /// What is in the way, in it.
        held: PathBuf,
    },
    /// An output directory would be made inside a model directory.
    #[error("{path} would be inside the model directory {model}", path = path.display(), model = model.display())]
    InsideModel {
        /// The output directory.
        path: PathBuf,
        /// The model directory.
        model: PathBuf,
    },
    /// A path cannot be that of a file or a directory, such as one that ends in `..`.
    #[error("`{path}` does not name a file or a directory", path = path.display())]
    Unnamed {
        /// The path.
        path: PathBuf,
    },
    /// There is no directory for a file.
    #[error("{path}: its directory does not exist", path = path.display())]
    NoParent {
        /// The file.
        path: PathBuf,
    },
    /// Something that is no file is where a file is read or written.
    #[error("{path} is {what}", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is, such as `a socket`.
        what: &'static str,
    },
    /// A mount point is never replaced, nor is a directory with one in it.
    #[error("{path} is a mount point, so it is not replaced", path = path.display())]
    MountPoint {
        /// The mount point.
        path: PathBuf,
    },
    /// The output directory is the working directory, or contains it.
    #[error("{path} contains the working directory, so it is not replaced", path = path.display())]
    WorkingDirectory {
        /// The output directory.
        path: PathBuf,
    },
    /// Something that is read is in the directory that would be replaced.
    #[error("{input} is inside {output}, which would be replaced", input = input.display(), output = output.display())]
    InputInside {
        /// What is read.
        input: PathBuf,
        /// The output directory.
        output: PathBuf,
    },
    /// Both an output and what it replaced are there, and it is not clear which one is wanted.
    #[error("{kept} holds what {path} was", path = path.display(), kept = kept.display())]
    Doubled {
        /// The output directory.
        path: PathBuf,
        /// Where what was there before is now.
        kept: PathBuf,
    },
    /// Whether another process writes the same output cannot be told, because files cannot be
    /// locked there, and a killed process may have left its lock behind.
    #[error("{path}: files cannot be locked here ({source})", path = path.display())]
    NotLockable {
        /// The lock. Whoever removes it says that nobody has it.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A finished file could not be given its name.
    #[error("{path}: {source}; the finished file is {kept}", path = path.display(), kept = kept.display())]
    Undelivered {
        /// The file.
        path: PathBuf,
        /// Where its content is now.
        kept: PathBuf,
        /// Why it could not be renamed.
        source: std::io::Error,
    },
    /// What was to be replaced has lost its name, and could not be given it back.
    #[error("{path}: {source}; what was there is now {kept}", path = path.display(), kept = kept.display())]
    Stranded {
        /// The output directory.
        path: PathBuf,
        /// Where what was there is now.
        kept: PathBuf,
        /// Why the name could not be given back.
        source: std::io::Error,
    },
    /// What was to be written is of a file that is mapped into memory, and that was truncated.
    #[error("{path}: a file that it is made of was truncated while it was read", path = path.display())]
    SourceTruncated {
        /// The file that was written.
        path: PathBuf,
    },
    /// A file is not what it was when it was opened.
    #[error("{path} was changed while it was read", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    /// Checks that what was computed for a path can be used.
    ///
    /// # Errors
    ///
    /// [`FileError::Unsound`].
    pub(crate) fn check_sound(path: &Path) -> Result<(), Self> {
        check_sound().map_err(|source| Self::Unsound { path: path.into(), source })
    }

    /// Names the path in an error of the operating system.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| match source.raw_os_error() {
            // The memory of a process is only ever missing where a file is mapped into it.
            Some(BAD_ADDRESS) if cfg!(unix) => Self::SourceTruncated { path },
            _ => Self::Io { path, source },
        }
    }
}

/// `EFAULT` of every Unix: the kernel cannot read what it is to write. Where the process itself
/// reads it, that is the signal SIGBUS.
const BAD_ADDRESS: i32 = 14;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;

    use crate::files::MappedFile;

    use super::FileError;

    #[test]
    fn writing_from_a_file_that_was_truncated_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::write(&source, vec![1; 1 << 16]).unwrap();
        let mapped = MappedFile::open(&source).unwrap().unwrap();
        File::options().write(true).open(&source).unwrap().set_len(0).unwrap();
        let path = dir.path().join("made");
        let written = File::create(&path).unwrap().write_all(&mapped);
        let error = written.map_err(FileError::io(&path)).unwrap_err();
        assert!(matches!(error, FileError::SourceTruncated { .. }), "{error}");
        assert!(error.to_string().contains("while it was read"), "{error}");
    }
}
