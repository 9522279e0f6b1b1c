use std::path::PathBuf;

/// What can be wrong with a file or an output directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The reason that the system gives.
        source: std::io::Error,
    },
    /// The output exists and was not to be replaced.
    #[error("{path} exists already", path = path.display())]
    OutputExists {
        /// The output directory.
        path: PathBuf,
    },
    /// A directory was to be written where there is something else, or inside of it.
    #[error("{path} is not a directory", path = path.display())]
    NotADirectory {
        /// The file, or the link that leads nowhere.
        path: PathBuf,
    },
    /// Another process is writing the same output.
    #[error("{path}: another process is writing it", path = path.display())]
    OutputBusy {
        /// The output directory.
        path: PathBuf,
    },
    /// Unfinished output would be kept under this name, and what is there is something else. It
    /// is left alone.
    #[error("{path} is in the way, and no unfinished run left it there", path = path.display())]
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
    /// Names the path in an error of the operating system.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
