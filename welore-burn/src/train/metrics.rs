use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::checkpoints::Position;
use super::lines::Lines;
use crate::files::FileError;

/// The run's `metrics.jsonl`: one JSON object per line, with its `step`.
#[derive(Debug)]
pub struct Metrics {
    lines: Lines,
    missing: usize,
}

impl Metrics {
    /// Opens the file and keeps only the lines up to a position: what an interrupted run wrote
    /// after its last checkpoint will be computed again.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`].
    pub fn open(path: impl AsRef<Path>, position: &Position) -> Result<Self, FileError> {
        let mut steps = BTreeSet::new();
        let lines = Lines::open(path.as_ref().to_path_buf(), |line| {
            let is_step = !line["loss"].is_null();
            let last = if is_step { position.step } else { position.evaluated };
            // 0 is also where the last evaluation is before there was one.
            let is_due = |step: u64| step == 0 && !is_step && position.start.is_none();
            let step = line["step"].as_u64().filter(|step| *step <= last as u64 && !is_due(*step));
            steps.extend(step.filter(|step| is_step && *step > 0));
            step.is_some()
        })?;
        Ok(Self { lines, missing: position.step.saturating_sub(steps.len()) })
    }

    /// How many steps up to the position it was opened at have no line, because lines were lost.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Appends a line.
    ///
    /// # Errors
    ///
    /// [`FileError::Io`].
    pub fn write(&mut self, line: &Value) -> Result<(), FileError> {
        self.lines.append(&format!("{line}\n"))
    }
}

/// The most memory that this process has used so far, in bytes; `None` if the system does not
/// report it.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(1024 * kilobytes)
}
