//! Carries out pieces of work from files to files, in the memory of those in flight.

use std::collections::HashMap;
use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use super::files::{FilesError, WriteSettings};
use super::pieces::{Made, Piece};
use crate::checkpoint::{Checkpoint, CheckpointError, Layout, OutputDir, ShardFiles, TensorSpec};
use crate::progress::{Part, Progress};
use crate::spectrum::{Cost, DECOMPOSITION, Norms};

/// What is to be done.
pub(super) struct Work<'a> {
    /// For people.
    pub what: &'static str,
    /// What the result depends on beside the checkpoint: the text of the plan.
    pub origin: &'a str,
    pub checkpoint: &'a Checkpoint,
    pub pieces: Vec<Piece<'a>>,
    pub settings: &'a WriteSettings<'a>,
}

/// A line of the journal: a piece whose tensors are in their shards.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Finished {
    name: String,
    /// Identifies what it was made from.
    source: String,
    /// BLAKE3 of what was written.
    written: String,
    relative_error: Option<f64>,
}

/// A piece that is in its place.
struct Done {
    relative_error: Option<f64>,
    /// What to note of it, if it is new and notes are taken.
    finished: Option<Finished>,
    known: bool,
}

/// Makes all pieces and writes them into `output`, or what is missing of them. Returns the
/// relative errors of factored pieces, in the order of the pieces.
pub(super) fn carry_out(
    work: &Work<'_>,
    output: &OutputDir,
    progress: &mut dyn Progress,
) -> Result<Vec<Option<f64>>, FilesError> {
    let Work { what, checkpoint, pieces, settings, .. } = work;
    let norms = settings.norms;
    let costs: Vec<Cost> = pieces.iter().map(|piece| piece.cost(checkpoint, norms)).collect();
    let needs: Vec<u64> = costs.iter().map(|cost| cost.bytes).collect();
    settings.budget.check(pieces.iter().map(Piece::name).zip(needs.iter().copied()))?;

    let tensors = pieces
        .iter()
        .map(|piece| piece.tensors(checkpoint))
        .collect::<Result<Vec<_>, CheckpointError>>()?;
    let layout = Layout::new(&tensors.concat(), settings.shard_bytes)?;
    let begun = output.begin::<Finished>(&job(work, &layout), |file| layout.has_file(file))?;
    let (mut journal, known) = match begun {
        Some((journal, finished)) => (Some(journal), finished),
        None => (None, Vec::new()),
    };
    let job = Job {
        checkpoint,
        norms,
        files: ShardFiles::prepare(output.path(), &layout)?,
        takes_notes: journal.is_some(),
        known: known.into_iter().map(|finished| (finished.name.clone(), finished)).collect(),
    };

    let steps: usize = pieces.iter().map(Piece::steps).sum();
    let operations = costs.iter().fold(0, |sum: u64, cost| sum.saturating_add(cost.operations));
    progress.begin_work(what, steps, operations);
    let mut errors = vec![None; pieces.len()];
    let mut outcome: Result<(), FilesError> = Ok(());
    settings.budget.workers().spread_within(
        settings.budget.memory,
        &needs,
        |index| job.put(&pieces[index], &tensors[index]),
        |index, result| {
            let noted = result.and_then(|done| {
                errors[index] = done.relative_error;
                // Also when the work is stopped: what is done need not be done again.
                if let (Some(journal), Some(finished)) = (&mut journal, &done.finished) {
                    journal.note(finished)?;
                }
                let piece = &pieces[index];
                let (steps, operations) = (piece.steps(), costs[index].operations);
                let part = Part { item: piece.name(), steps, operations, known: done.known };
                Ok(progress.part(part)?)
            });
            if outcome.is_ok() {
                outcome = noted;
            }
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        },
    );
    outcome?;
    job.files.finish()?;
    Ok(errors)
}

/// Identifies what is written, whatever it is written from: that is checked piece by piece.
fn job(work: &Work<'_>, layout: &Layout) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{} {DECOMPOSITION}\n", work.what).as_bytes());
    hasher.update(layout.digest().as_bytes());
    hasher.update(work.origin.as_bytes());
    hasher.finalize().to_hex().to_string()
}

/// What the workers share.
struct Job<'a> {
    checkpoint: &'a Checkpoint,
    norms: Norms<'a>,
    files: ShardFiles<'a>,
    takes_notes: bool,
    /// What an earlier process finished, by name.
    known: HashMap<String, Finished>,
}

impl<'a> Job<'a> {
    /// Makes a piece and writes it to its place, unless it is there.
    fn put(&self, piece: &Piece<'a>, tensors: &[TensorSpec]) -> Result<Done, FilesError> {
        let done = self.put_and_hash(piece, tensors);
        for tensor in piece.sources() {
            self.checkpoint.release(&tensor);
        }
        if let Ok(done) = &done {
            let what = if done.known { "written before" } else { "written" };
            match piece.steps() {
                0 => tracing::trace!("{}: {what}", piece.name()),
                _ => tracing::debug!("{}: {what}", piece.name()),
            }
        }
        done
    }

    fn put_and_hash(&self, piece: &Piece<'a>, tensors: &[TensorSpec]) -> Result<Done, FilesError> {
        if !self.takes_notes {
            let made = piece.make(self.checkpoint, self.norms)?;
            self.write(tensors, &made)?;
            let relative_error = made.relative_error;
            return Ok(Done { relative_error, finished: None, known: false });
        }
        let source = piece.source_digest(self.checkpoint)?;
        if let Some(finished) = self.known.get(piece.name())
            && finished.source == source
            && finished.relative_error.is_some() == matches!(piece, Piece::Factor(_))
            && finished.written == self.files.digest(tensors)?
        {
            let relative_error = finished.relative_error;
            return Ok(Done { relative_error, finished: None, known: true });
        }
        let made = piece.make(self.checkpoint, self.norms)?;
        self.write(tensors, &made)?;
        let mut hasher = blake3::Hasher::new();
        for data in &made.data {
            hasher.update(data);
        }
        let written = hasher.finalize().to_hex().to_string();
        let (name, relative_error) = (piece.name().to_string(), made.relative_error);
        let finished = Some(Finished { name, source, written, relative_error });
        Ok(Done { relative_error, finished, known: false })
    }

    fn write(&self, tensors: &[TensorSpec], made: &Made<'_>) -> Result<(), FilesError> {
        for (tensor, data) in tensors.iter().zip(&made.data) {
            self.files.write(&tensor.name, data)?;
        }
        Ok(())
    }
}
