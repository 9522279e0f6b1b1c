//! The format of `llama-imatrix` before GGUF, often in files named `.dat` or `.imatrix`.
//!
//! Little-endian: the number of entries (i32); for each entry the length of its name (i32), the
//! name, the number of windows (i32), the number of values (i32), and the values (f32), which are
//! mean squares times the number of windows. Later versions add the number of windows (i32), the
//! length of the name of the text (i32) and the name.

use std::path::Path;

use super::{Content, Entry, mean_squares, wrong};
use crate::calibrate::error::CalibrationError;
use crate::files::MappedFile;
use crate::ggml::matrix_in_stack;

/// Longer names have no tensor of llama.cpp, which has room for 63 bytes.
const LONGEST_NAME: i32 = 255;

/// Whether a file that starts like this may have the format, which has no mark of its own. A
/// safetensors file has zeros where the length of the first name is here.
pub(super) fn is_start(start: &[u8]) -> bool {
    match start.as_chunks::<4>() {
        ([entries, len, ..], _) => {
            let [entries, len] = [entries, len].map(|bytes| i32::from_le_bytes(*bytes));
            entries > 0 && (1..=LONGEST_NAME).contains(&len)
        }
        _ => false,
    }
}

pub(super) fn read(path: &Path) -> Result<Content, CalibrationError> {
    let missing = || CalibrationError::Missing { path: path.into() };
    let map = MappedFile::open(path)?.ok_or_else(missing)?;
    let mut rest = Rest { path, bytes: &map };
    let mut content = Content::default();
    // Every entry takes bytes of the file, so a number that is too large ends with them.
    for _ in 0..rest.number()? {
        let name = rest.name()?;
        if matrix_in_stack(&name, 0).is_some() {
            let reason = "is of all experts of a layer, and this format does not say of how many";
            return Err(wrong(path, &name, reason));
        }
        let entry = rest.entry(&name)?;
        if content.entries.insert(name.clone(), vec![entry]).is_some() {
            return Err(wrong(path, &name, "is there twice"));
        }
    }
    if !rest.bytes.is_empty() {
        content.chunks = usize::try_from(rest.number()?).unwrap_or(0);
    }
    if !rest.bytes.is_empty() {
        let len = rest.number()?;
        let name = rest.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        if !name.is_empty() {
            content.datasets.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    if !rest.bytes.is_empty() {
        return Err(rest.not("it goes on behind its end"));
    }
    map.check_unchanged()?;
    Ok(content)
}

/// What is left of a file.
struct Rest<'a> {
    path: &'a Path,
    bytes: &'a [u8],
}

impl<'a> Rest<'a> {
    fn not(&self, reason: &str) -> CalibrationError {
        CalibrationError::NotImatrix { path: self.path.into(), reason: reason.into() }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], CalibrationError> {
        let (taken, rest) =
            self.bytes.split_at_checked(len).ok_or_else(|| self.not("it ends too early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<i32, CalibrationError> {
        let bytes = self.take(4)?;
        Ok(i32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    fn name(&mut self) -> Result<String, CalibrationError> {
        let len = self.number()?;
        let len = usize::try_from(len).ok().filter(|_| (1..=LONGEST_NAME).contains(&len));
        let len = len.ok_or_else(|| self.not("a name in it has an impossible length"))?;
        let name = self.take(len)?;
        let name = std::str::from_utf8(name).map_err(|_| self.not("a name in it is not UTF-8"))?;
        Ok(name.into())
    }

    /// What is behind a name.
    fn entry(&mut self, name: &str) -> Result<Entry, CalibrationError> {
        let (windows, values) = (self.number()?, self.number()?);
        if windows < 1 {
            return Err(wrong(self.path, name, format!("was measured on {windows} windows")));
        }
        let bytes = usize::try_from(values).ok().filter(|values| *values > 0);
        let bytes = bytes.and_then(|values| values.checked_mul(size_of::<f32>()));
        let Some(bytes) = bytes else {
            return Err(wrong(self.path, name, format!("has {values} inputs")));
        };
        let sums = self.take(bytes)?;
        let squares = mean_squares(self.path, name, sums, f64::from(windows))?;
        Ok(Entry { squares, count: windows.unsigned_abs().into() })
    }
}
