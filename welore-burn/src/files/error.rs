use std::path::{Path, PathBuf};

use crate::progress::{Unsound, check_sound};

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
        move |source| Self::Io { path, source }
    }
}
