use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use serde_json::Value;

use crate::files::{FileError, check_input, replace_file};

/// A file of a run to which JSON objects are appended, one per line.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Opens the file, and removes the lines that `keep` rejects. `keep` gets `null` for a line
    /// that is not JSON: a killed process may have left half a line.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`].
    pub fn open(path: PathBuf, mut keep: impl FnMut(&Value) -> bool) -> Result<Self, FileError> {
        let io = || FileError::io(&path);
        if path.exists() {
            check_input(&path, u64::MAX)?;
            let lines = BufReader::new(File::open(&path).map_err(io())?).split(b'\n');
            let mut kept = Vec::new();
            for line in lines {
                let line = line.map_err(io())?;
                let value: Value = serde_json::from_slice(&line).unwrap_or_default();
                if keep(&value) {
                    kept.extend_from_slice(&line);
                    kept.push(b'\n');
                }
            }
            replace_file(&path, &kept)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io())?;
        Ok(Self { path, file })
    }

    /// Appends whole lines in one write, so that none is seen half-written.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`].
    pub fn append(&mut self, lines: &str) -> Result<(), FileError> {
        self.file.write_all(lines.as_bytes()).map_err(FileError::io(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_are_kept_are_there_before_new_ones() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("lines.jsonl");
        std::fs::write(&path, "{\"step\":2}\n{\"step\":4}\n{\"step\":3}\n{\"ste").unwrap();
        let mut asked = Vec::new();
        let mut lines = Lines::open(path.clone(), |line| {
            asked.push(line["step"].as_u64());
            line["step"].as_u64().is_some_and(|step| step <= 3)
        })
        .unwrap();
        assert_eq!(asked, [Some(2), Some(4), Some(3), None]);
        lines.append("{\"step\":4}\n{\"step\":5}\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":2}\n{\"step\":3}\n{\"step\":4}\n{\"step\":5}\n");
    }
}
