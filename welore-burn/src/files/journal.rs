//! The journal of an unfinished directory: what is written there, and which parts are finished.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::FileError;
use super::partial::Keep;
use super::write::replace_file;

pub(super) const JOURNAL: &str = "progress.jsonl";
const FORMAT: &str = "welore-partial";
const VERSION: u32 = 1;

/// No real journal is longer; a hostile one is read no further.
const LONGEST_JOURNAL: u64 = 64 << 20;

/// The first line of a journal.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Head {
    format: String,
    version: u32,
    /// Identifies what is being written.
    job: String,
}

impl Head {
    pub fn new(job: &str) -> Self {
        Self { format: FORMAT.into(), version: VERSION, job: job.into() }
    }

    /// The parts that the journal in a directory records as finished. `None` if it is of another
    /// job, or there is none.
    pub fn finished<T: DeserializeOwned>(&self, dir: &Path) -> Option<Vec<T>> {
        let text = read_journal(dir)?;
        let mut lines = text.lines();
        let found: Head = serde_json::from_str(lines.next()?).ok()?;
        // A line cut short by a kill ends the list.
        (found == *self).then(|| lines.map_while(|line| serde_json::from_str(line).ok()).collect())
    }
}

/// Records the finished parts of a job, one per line. If a power cut loses lines, their parts are
/// made again. Whether a recorded part is intact is checked when its line is read.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    keep: Arc<Keep>,
}

impl Journal {
    /// Writes the journal of a directory anew.
    pub(super) fn create(
        dir: &Path,
        head: &Head,
        finished: &[impl Serialize],
        keep: Arc<Keep>,
    ) -> Result<Self, FileError> {
        let path = dir.join(JOURNAL);
        let io = || FileError::io(&path);
        let mut text = line_of(head).map_err(io())?;
        for part in finished {
            text.extend(line_of(part).map_err(io())?);
        }
        replace_file(&path, &text)?;
        let file = File::options().append(true).open(&path).map_err(io())?;
        Ok(Self { path, file, keep })
    }

    /// Records a finished part. From then on the directory also survives an error, if the part
    /// `took` work to make.
    pub fn note(&mut self, part: &impl Serialize, took: bool) -> Result<(), FileError> {
        FileError::check_sound(&self.path)?;
        let noted = line_of(part).and_then(|line| self.file.write_all(&line));
        noted.map_err(FileError::io(&self.path))?;
        if took {
            self.keep.set_parts(true);
        }
        Ok(())
    }
}

fn line_of(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// The journal in a directory, if this program wrote it.
pub(super) fn read_journal(dir: &Path) -> Option<String> {
    let file = File::open(dir.join(JOURNAL)).ok()?;
    let mut text = Vec::new();
    file.take(LONGEST_JOURNAL).read_to_end(&mut text).ok()?;
    // A line half written before a kill or a power cut may hold anything.
    let text = String::from_utf8_lossy(&text).into_owned();
    let head: Head = serde_json::from_str(text.lines().next()?).ok()?;
    (head.format == FORMAT).then_some(text)
}
