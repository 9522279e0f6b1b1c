//! Temporary files.

use std::path::Path;

use anyhow::Result;
use tempfile::TempDir;
use welore_burn::files::FileError;

use crate::failure::WrongInput;

/// A directory for temporary files, if the command needs one. It is removed on drop.
#[derive(Debug)]
pub struct Scratch(Option<TempDir>);

impl Scratch {
    /// Creates the directory if it is `needed`.
    ///
    /// # Errors
    ///
    /// [`WrongInput`] if the system's place for temporary files is no directory, else
    /// [`FileError::Io`].
    pub fn new(needed: bool) -> Result<Self> {
        if !needed {
            return Ok(Self(None));
        }
        let place = std::env::temp_dir();
        if !place.is_dir() {
            let variable = if cfg!(windows) { "TMP" } else { "TMPDIR" };
            let place = place.display();
            let message = format!("{variable}={place}: no such directory for temporary files");
            let hint = format!("set {variable} to a directory that exists");
            return Err(WrongInput::with_hint(message, hint).into());
        }
        let made = tempfile::tempdir_in(&place).map_err(|error| {
            // The error itself names a file that nobody knows.
            FileError::io(&place)(std::io::Error::from(error.kind()))
        })?;
        Ok(Self(Some(made)))
    }

    /// The directory; an empty path if none was needed.
    pub fn path(&self) -> &Path {
        self.0.as_ref().map_or(Path::new(""), TempDir::path)
    }
}
