use std::borrow::Cow;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::pieces::Content;
use crate::files::{FileError, write_file};
use crate::forms::TensorSpec;

/// Bytes of a relative error, before the tensors in a file.
const ERROR_BYTES: usize = size_of::<f64>();

/// Compressed matrices in a directory, for plans that have some in common; see
/// [`Compressor::with_kept`](super::Compressor::with_kept).
#[derive(Debug)]
pub struct KeptMatrices {
    dir: PathBuf,
    most: u64,
    /// Bytes of what is kept.
    bytes: Mutex<u64>,
}

impl KeptMatrices {
    /// Keeps matrices in files of a new directory, which the caller removes. What would exceed
    /// `most` bytes in all is not kept.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`] if the directory cannot be made.
    pub fn create(dir: impl Into<PathBuf>, most: u64) -> Result<Self, FileError> {
        let dir = dir.into();
        fs::create_dir(&dir).map_err(FileError::io(&dir))?;
        Ok(Self { dir, most, bytes: Mutex::new(0) })
    }

    /// The matrix of this key, which has these tensors, if it is kept.
    pub(super) fn find(&self, key: &str, tensors: &[TensorSpec]) -> Option<Content<'static>> {
        let file = fs::read(self.dir.join(key)).ok()?;
        let (error, mut rest) = file.split_first_chunk::<ERROR_BYTES>()?;
        let mut data = Vec::with_capacity(tensors.len());
        for tensor in tensors {
            let (tensor, after) = rest.split_at_checked(usize::try_from(tensor.bytes()).ok()?)?;
            data.push(Cow::Owned(tensor.to_vec()));
            rest = after;
        }
        let relative_error = Some(f64::from_le_bytes(*error));
        rest.is_empty().then_some(Content { data, relative_error })
    }

    /// Keeps a matrix, if there is room. One that cannot be kept is made again.
    pub(super) fn keep(&self, key: &str, content: &Content<'_>) {
        let Some(error) = content.relative_error else { return };
        let mut file = error.to_le_bytes().to_vec();
        content.data.iter().for_each(|tensor| file.extend_from_slice(tensor));
        if self.reserve(file.len() as u64) {
            let _ = write_file(self.dir.join(key), &file);
        }
    }

    /// Whether there is room for so many more bytes, which then are taken.
    fn reserve(&self, more: u64) -> bool {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = bytes.saturating_add(more) <= self.most;
        if fits {
            *bytes += more;
        }
        fits
    }
}
