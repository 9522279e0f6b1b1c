//! What earlier processes finished of a calibration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::error::CalibrationError;
use super::file::{Manifest, digest_of_file};
use super::hidden::{HiddenStates, Like, read_states, write_states};
use super::writer::{CalibrationWriter, FILE};
use crate::checkpoint::Checkpoint;
use crate::files::{FileError, Journal};
use crate::model::{LanguageModel, as_tensor, device_of};

/// A direction in which a text goes through the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// What is counted on the way, and stated in the end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    /// Number of experts whose second moments were filled up.
    pub mixed_experts: usize,
    /// Number of second moments that few rows decide.
    pub uneven: usize,
}

/// A line of the journal: a pass that is done, and its digest. One that was altered cannot be read, which
/// ends the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub(super) struct Line {
    finished: Finished,
    digest: String,
}

/// A line as it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    finished: Finished,
    digest: String,
}

impl TryFrom<Unchecked> for Line {
    type Error = &'static str;

    fn try_from(Unchecked { finished, digest }: Unchecked) -> Result<Self, Self::Error> {
        let line = Self::of(finished);
        if line.digest == digest { Ok(line) } else { Err("the line has another digest") }
    }
}

impl Line {
    fn of(finished: Finished) -> Self {
        let text = serde_json::to_vec(&finished).expect("numbers and strings always serialize");
        let digest = blake3::hash(&text).to_hex().to_string();
        Self { finished, digest }
    }
}

/// A pass through a block that is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Finished {
    direction: Direction,
    /// How many passes in this direction were done before it.
    step: usize,
    /// Digests of the second moments that it wrote, by tensor.
    moments: BTreeMap<String, String>,
    /// How much rows differ, of all second moments so far, by place.
    spread: BTreeMap<usize, f64>,
    /// All counts so far.
    counts: Counts,
    /// Digest of what goes through the next block.
    states: String,
    /// Digest of the inputs that the pass backward needs again.
    kept: Option<String>,
}

/// The passes that are done, and where more of them are noted; or nothing of both.
pub(super) struct Resume {
    place: Option<Place>,
    forward: Vec<Finished>,
    backward: Vec<Finished>,
}

struct Place {
    journal: Journal,
    dir: PathBuf,
}

/// Whether a file in the directory is one of these.
pub(super) fn belongs(name: &str) -> bool {
    let stems = [STATES_FORWARD, STATES_BACKWARD, KEPT];
    stems.iter().any(|stem| name.starts_with(stem)) || name == FILE
}

const STATES_FORWARD: &str = "forward-";
const STATES_BACKWARD: &str = "backward-";
const KEPT: &str = "inputs-";

/// Begins the file, or goes on with what an earlier process measured of the same model on the same
/// text, if the model is identified.
pub(super) fn begin(
    path: &Path,
    manifest: &Manifest,
    text: &[Vec<u32>],
    model: Option<String>,
    blocks: usize,
) -> Result<(CalibrationWriter, Resume), CalibrationError> {
    let Some(model) = model else {
        return Ok((CalibrationWriter::new(path, manifest, text)?, Resume::none()));
    };
    let (writer, journal, found) = CalibrationWriter::resume(path, manifest, text, &model)?;
    let resume = Resume::new(journal, found, blocks, &writer)?;
    Ok((writer, resume))
}

/// Identifies a model and how it is computed.
pub(super) fn identity<M: LanguageModel>(
    checkpoint: &Checkpoint,
    model: &M,
    tokens: &[u32],
) -> Result<String, CalibrationError> {
    let mut weights = blake3::Hasher::new();
    for tensor in checkpoint.names() {
        weights.update(checkpoint.digest(tensor)?.as_bytes());
    }
    let (version, device) = (env!("CARGO_PKG_VERSION"), device_of(model).inner());
    let (states, _) = model.valid().begin(as_tensor(&tokens[..1], &device));
    let (weights, dtype) = (weights.finalize().to_hex(), states.dtype());
    // What is computed with the weights is in the configuration, or beside them in a GGUF file.
    let about = match checkpoint.dir() {
        dir if dir.is_dir() => vec![dir.join("config.json")],
        file => vec![file.to_path_buf()],
    };
    let mut config = blake3::Hasher::new();
    for file in about.into_iter().filter(|file| file.exists()) {
        let mut opened = std::fs::File::open(&file).map_err(FileError::io(&file))?;
        std::io::copy(&mut opened, &mut config).map_err(FileError::io(&file))?;
    }
    let config = config.finalize().to_hex();
    Ok(format!("{version} {device:?} {dtype:?} {weights} {config}"))
}

impl Resume {
    /// Nothing is done, and nothing will be noted.
    pub fn none() -> Self {
        Self { place: None, forward: Vec::new(), backward: Vec::new() }
    }

    /// Goes on with what was `found` in the journal, as far as it is intact, for a model of so many
    /// blocks.
    pub fn new(
        journal: Journal,
        found: Vec<Line>,
        blocks: usize,
        writer: &CalibrationWriter,
    ) -> Result<Self, CalibrationError> {
        let dir = writer.dir().to_path_buf();
        let mut resume = Self { place: None, forward: Vec::new(), backward: Vec::new() };
        for Line { finished, .. } in found {
            if !resume.take(finished, blocks) {
                break;
            }
        }
        let intact = |finished: &Finished| -> Result<bool, CalibrationError> {
            let kept = match &finished.kept {
                Some(digest) => is_file(&dir.join(format!("{KEPT}{}", finished.step)), digest),
                None => true,
            };
            Ok(kept && writer.has_written(&finished.moments)?)
        };
        for passes in [&mut resume.forward, &mut resume.backward] {
            for at in 0..passes.len() {
                if !intact(&passes[at])? {
                    passes.truncate(at);
                    break;
                }
            }
        }
        if resume.forward.len() < blocks {
            resume.backward.clear();
        }
        for passes in [&mut resume.backward, &mut resume.forward] {
            while let Some(last) = passes.last() {
                if is_file(&dir.join(states_name(last.direction, last.step)), &last.states) {
                    break;
                }
                passes.pop();
            }
        }
        if resume.forward.len() < blocks {
            resume.backward.clear();
        }
        if let Some(last) = resume.backward.last().or(resume.forward.last()) {
            writer.know_spread(&last.spread);
        }
        resume.place = Some(Place { journal, dir });
        Ok(resume)
    }

    /// Takes a line of the journal, which stands for itself and takes back what was noted after it.
    /// Returns whether it follows from those before.
    fn take(&mut self, finished: Finished, blocks: usize) -> bool {
        let (passes, may_be) = match finished.direction {
            Direction::Forward => {
                self.backward.clear();
                (&mut self.forward, true)
            }
            Direction::Backward => (&mut self.backward, self.forward.len() == blocks),
        };
        let follows = may_be && finished.step <= passes.len() && finished.step < blocks;
        if follows {
            passes.truncate(finished.step);
            passes.push(finished);
        }
        follows
    }

    /// How many passes in a direction are done.
    pub fn done(&self, direction: Direction) -> usize {
        self.passes(direction).len()
    }

    /// What was counted in all that is done.
    pub fn counts(&self) -> Counts {
        let last = self.backward.last().or(self.forward.last());
        last.map(|finished| finished.counts).unwrap_or_default()
    }

    /// What goes through the next block; `None` if nothing is done in this direction.
    pub fn states(
        &self,
        direction: Direction,
        windows: usize,
        like: &Like,
    ) -> Result<Option<Vec<Tensor<3>>>, FileError> {
        let (Some(place), Some(last)) = (&self.place, self.passes(direction).last()) else {
            return Ok(None);
        };
        let path = place.dir.join(states_name(direction, last.step));
        read_states(&path, windows, like).map(Some)
    }

    /// The inputs of the blocks that are done, for so many windows.
    pub fn kept(&self, path: &Path, windows: usize, like: &Like) -> HiddenStates {
        let mut kept = HiddenStates::beside(path);
        if let Some(place) = &self.place {
            for step in 0..self.forward.len() {
                kept.push_known(place.dir.join(format!("{KEPT}{step}")), windows, like.clone());
            }
        }
        kept
    }

    /// Keeps the inputs of the next block for the pass backward. Returns the digest of their file, if
    /// they are in one that outlives the process.
    pub fn keep(
        &self,
        kept: &mut HiddenStates,
        step: usize,
        windows: &[Tensor<3>],
    ) -> Result<Option<String>, FileError> {
        match &self.place {
            Some(place) if !windows.is_empty() => {
                kept.push_to(place.dir.join(format!("{KEPT}{step}")), windows).map(Some)
            }
            _ => kept.push(windows).map(|()| None),
        }
    }

    /// Notes that a pass is done, with what goes through the next block.
    pub fn note(
        &mut self,
        direction: Direction,
        step: usize,
        states: &[Tensor<3>],
        kept: Option<String>,
        counts: Counts,
        writer: &CalibrationWriter,
    ) -> Result<(), CalibrationError> {
        let Some(Place { journal, dir }) = &mut self.place else { return Ok(()) };
        let states = write_states(&dir.join(states_name(direction, step)), states)?;
        let (moments, spread) = (writer.take_written(), writer.known_spread());
        let finished = Finished { direction, step, moments, spread, counts, states, kept };
        Ok(journal.note(&Line::of(finished), true)?)
    }

    fn passes(&self, direction: Direction) -> &[Finished] {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Backward => &self.backward,
        }
    }
}

/// Two files take turns, so that one is whole while the other is written.
fn states_name(direction: Direction, step: usize) -> String {
    let stem = match direction {
        Direction::Forward => STATES_FORWARD,
        Direction::Backward => STATES_BACKWARD,
    };
    format!("{stem}{}", step % 2)
}

fn is_file(path: &Path, digest: &str) -> bool {
    digest_of_file(path).is_ok_and(|found| found == digest)
}
