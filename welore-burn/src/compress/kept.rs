use std::borrow::Cow;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::pieces::Content;
use crate::files::{FileError, write_file};
use crate::forms::{StoredError, TensorSpec};

/// Bytes of a matrix's errors, before the tensors in a file.
const ERROR_BYTES: usize = 3 * size_of::<f64>();

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
        let error = error_in(error);
        rest.is_empty().then_some(Content { data, error: Some(error) })
    }

    /// Keeps a matrix, if there is room. One that cannot be kept is made again.
    pub(super) fn keep(&self, key: &str, content: &Content<'_>) {
        let Some(StoredError { relative_error, stored_error, size }) = content.error else {
            return;
        };
        let numbers = [relative_error, stored_error, size];
        let mut file: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
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

fn error_in(bytes: &[u8; ERROR_BYTES]) -> StoredError {
    let (numbers, _) = bytes.as_chunks::<{ size_of::<f64>() }>();
    let number = |at: usize| f64::from_le_bytes(numbers[at]);
    StoredError { relative_error: number(0), stored_error: number(1), size: number(2) }
}
