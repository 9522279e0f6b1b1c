use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::checkpoints::Position;
use crate::checkpoint::{CheckpointError, write_file};

/// The run's `metrics.jsonl`: one JSON object a line, with its `step`.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    missing: usize,
}

impl Metrics {
    /// Opens the file, keeping the lines up to a position only: what a run that died wrote
    /// after its last checkpoint will be computed again.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`].
    pub fn open(path: impl AsRef<Path>, position: &Position) -> Result<Self, CheckpointError> {
        let path = path.as_ref().to_path_buf();
        let io = || {
            let path = path.clone();
            move |source| CheckpointError::Io { path, source }
        };
        let mut steps = BTreeSet::new();
        if path.exists() {
            let lines = BufReader::new(File::open(&path).map_err(io())?).split(b'\n');
            let mut kept = Vec::new();
            for line in lines {
                let line = line.map_err(io())?;
                // A killed process may have left half a line.
                let value: Value = serde_json::from_slice(&line).unwrap_or_default();
                let is_step = !value["loss"].is_null();
                let last = if is_step { position.step } else { position.evaluated };
                let Some(step) = value["step"].as_u64().filter(|step| *step <= last as u64) else {
                    continue;
                };
                if is_step && step > 0 {
                    steps.insert(step);
                }
                kept.extend_from_slice(&line);
                kept.push(b'\n');
            }
            write_file(&path, &kept)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io())?;
        Ok(Self { path, file, missing: position.step.saturating_sub(steps.len()) })
    }

    /// How many steps before the position it was opened at have no line: lines were lost.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Appends a line.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`].
    pub fn write(&mut self, line: &Value) -> Result<(), CheckpointError> {
        // In one piece, so that a line is not seen half-written.
        self.file
            .write_all(format!("{line}\n").as_bytes())
            .map_err(|source| CheckpointError::Io { path: self.path.clone(), source })
    }
}

/// The most memory this process has used so far, in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(1024 * kilobytes)
}
