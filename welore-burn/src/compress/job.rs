//! Writes a model directory: pieces are written to their places and noted in a journal, so that an
//! interrupted job can resume.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::CompressError;
use super::kept::KeptMatrices;
use super::options::WriteOptions;
use super::pieces::{Content, Piece, encode};
use crate::checkpoint::{Checkpoint, CheckpointError, ShardLayout, ShardWriter};
use crate::files::{Journal, OutputDir};
use crate::forms::{Part, Rounding, StoredError, StoredForm, TensorSpec};
use crate::linalg::{Cost, DECOMPOSITION};
use crate::modules::MatrixName;
use crate::named::Named;
use crate::plan::MatrixPlan;
use crate::progress::{self, Progress};
use crate::spectrum::Norms;

/// What should be written, and from what.
pub(super) struct Work<'a> {
    /// What the work does, such as `merging`.
    pub what: &'static str,
    /// What the result depends on apart from the checkpoint, such as the text of the plan.
    pub origin: String,
    pub checkpoint: &'a Checkpoint,
    pub pieces: Vec<Piece<'a>>,
    pub norms: Norms<'a>,
    pub options: WriteOptions,
    /// How numbers of compressed matrices are rounded to types of 16 bits.
    pub rounding: Rounding,
    /// Matrices that other work made.
    pub kept: Option<&'a KeptMatrices>,
    costs: Vec<Cost>,
    /// The tensors of every piece.
    tensors: Vec<Vec<TensorSpec>>,
    layout: ShardLayout,
}

/// A line of the journal: a piece whose tensors are in their shards.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Finished {
    name: String,
    /// Digest of the tensors that it was made from.
    source: String,
    /// BLAKE3 digest of what was written.
    written: String,
    /// Of a compressed matrix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<StoredError>,
}

/// A piece that has been written.
pub(super) struct Done {
    /// Of a compressed matrix.
    pub error: Option<StoredError>,
    /// The line for the journal, if it is new and there is a journal.
    finished: Option<Finished>,
    /// Whether an earlier process wrote it, or other work made it.
    known: bool,
}

impl<'a> Work<'a> {
    /// Lays out the tensors to write, and checks that every piece fits the budget.
    pub fn new(
        what: &'static str,
        origin: String,
        checkpoint: &'a Checkpoint,
        pieces: Vec<Piece<'a>>,
        norms: Norms<'a>,
        options: WriteOptions,
    ) -> Result<Self, CompressError> {
        let costs: Vec<Cost> = pieces.iter().map(|piece| piece.cost(checkpoint, &norms)).collect();
        let needs = costs.iter().map(|cost| cost.bytes);
        options.budget.check(pieces.iter().map(Piece::name).zip(needs))?;
        let tensors = pieces.iter().map(|piece| piece.tensors(checkpoint));
        let tensors = tensors.collect::<Result<Vec<_>, CheckpointError>>()?;
        let shapes = checkpoint.file_shapes();
        let layout = ShardLayout::shaped(&tensors.concat(), options.shard_bytes, &shapes)?;
        Ok(Self {
            what,
            origin,
            checkpoint,
            pieces,
            norms,
            options,
            rounding: Rounding::default(),
            kept: None,
            costs,
            tensors,
            layout,
        })
    }

    /// What a compressed matrix is made from, and how, as the name of a file; `None` for other
    /// pieces.
    fn key(&self, piece: &Piece<'_>) -> Result<Option<String>, CompressError> {
        let Piece::Compress(matrix) = piece else { return Ok(None) };
        let MatrixPlan { name, shape, form, dtype, .. } = matrix;
        let source = piece.source_digest(self.checkpoint)?;
        let norm = self.norms.identity().unwrap_or_default();
        let rounding = self.rounding.name();
        let key =
            format!("{} {shape:?} {form:?} {dtype:?} {source} {norm} {rounding}", name.as_str());
        Ok(Some(blake3::hash(key.as_bytes()).to_hex().to_string()))
    }

    /// The content of a piece, and whether other work made it.
    fn content(
        &self,
        piece: &Piece<'a>,
        tensors: &[TensorSpec],
    ) -> Result<(Content<'a>, bool), CompressError> {
        let make = || piece.make(self.checkpoint, &self.norms, self.rounding);
        let Some(kept) = self.kept else { return Ok((make()?, false)) };
        let Some(key) = self.key(piece)? else { return Ok((make()?, false)) };
        if let Some(content) = kept.find(&key, tensors) {
            return Ok((content, true));
        }
        let content = make()?;
        kept.keep(&key, &content);
        Ok((content, false))
    }

    /// Replaces the content of some compressed matrices in the files of this work in a directory.
    pub fn replace(
        &self,
        dir: &Path,
        parts: &BTreeMap<MatrixName, Vec<Part>>,
    ) -> Result<(), CompressError> {
        let files = ShardWriter::new(dir, &self.layout)?;
        for (piece, tensors) in self.pieces.iter().zip(&self.tensors) {
            let Piece::Compress(matrix) = piece else { continue };
            let Some(parts) = parts.get(&matrix.name) else { continue };
            // The error is not part of what is stored.
            let made = StoredForm { parts: parts.clone(), error: StoredError::default() };
            write_tensors(tensors, &encode(matrix, &made)?.data, &files)?;
        }
        Ok(files.finish()?)
    }

    /// Identifies the result, apart from the tensors that it is made from: these are checked for
    /// every piece.
    fn identity(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{} {DECOMPOSITION}\n", self.what).as_bytes());
        hasher.update(self.layout.digest().as_bytes());
        hasher.update(self.origin.as_bytes());
        hasher.finalize().to_hex().to_string()
    }
}

/// Work that has begun: its files exist, and the pieces that an earlier process finished are known.
pub(super) struct Job<'w, 'a> {
    work: &'w Work<'a>,
    files: ShardWriter<'w>,
    journal: Option<Journal>,
    /// Pieces that an earlier process finished, by name.
    known: HashMap<String, Finished>,
    /// Errors of compressed pieces, by name.
    errors: HashMap<String, StoredError>,
}

impl<'w, 'a> Job<'w, 'a> {
    /// Begins or resumes the work in a directory.
    pub fn begin(work: &'w Work<'a>, output: &'w OutputDir) -> Result<Self, CompressError> {
        let belongs = |file: &str| work.layout.has_file(file);
        let begun = output.begin::<Finished>(&work.identity(), belongs)?;
        let (journal, finished) =
            begun.map_or((None, Vec::new()), |(journal, finished)| (Some(journal), finished));
        let known = finished.into_iter().map(|finished| (finished.name.clone(), finished));
        Ok(Self {
            work,
            files: ShardWriter::new(output.path(), &work.layout)?,
            journal,
            known: known.collect(),
            errors: HashMap::new(),
        })
    }

    /// Makes the pieces that `chosen` selects and that are still missing, as many at a time as the
    /// budget allows. Progress says `what` is done, and counts in `unit`.
    pub fn make(
        &mut self,
        what: &str,
        unit: &'static str,
        chosen: impl Fn(&Piece<'_>) -> bool,
        progress: &mut dyn Progress,
    ) -> Result<(), CompressError> {
        let Work { pieces, costs, options, .. } = self.work;
        let places: Vec<usize> =
            (0..pieces.len()).filter(|place| chosen(&pieces[*place])).collect();
        let needs: Vec<u64> = places.iter().map(|place| costs[*place].bytes).collect();
        let steps = places.iter().map(|place| pieces[*place].steps()).sum();
        let operations = places.iter().map(|place| costs[*place].operations);
        progress.begin_work(what, steps, operations.fold(0, u64::saturating_add));
        progress.count_in(unit);
        let Self { work, files, journal, known, errors } = self;
        let takes_notes = journal.is_some();
        let workers = options.budget.workers();
        workers.try_spread_within(
            options.budget.memory,
            &needs,
            |index| put(work, places[index], files, known, takes_notes),
            |index, done| {
                let (piece, cost) = (&pieces[places[index]], costs[places[index]]);
                // Also if the work is stopped: a finished piece need not be made again.
                if let (Some(journal), Some(finished)) = (&mut *journal, &done.finished) {
                    journal.note(finished, piece.steps() > 0)?;
                }
                errors.extend(done.error.map(|error| (piece.name().to_string(), error)));
                let (item, steps, operations) = (piece.name(), piece.steps(), cost.operations);
                Ok(progress.part(progress::Part { item, steps, operations, known: done.known })?)
            },
        )
    }

    /// The stored form of a matrix that an earlier process compressed, if its source and its stored
    /// tensors are unchanged.
    pub fn find(&mut self, matrix: &MatrixPlan) -> Result<Option<StoredForm>, CompressError> {
        let place = self.place(matrix);
        let (piece, tensors) = (&self.work.pieces[place], &self.work.tensors[place]);
        let source = piece.source_digest(self.work.checkpoint)?;
        let found = is_known(&self.known, piece, &source, tensors, &self.files)?;
        let Some(Finished { error: Some(error), .. }) = found else {
            return Ok(None);
        };
        let error = *error;
        let specs = matrix.form.parts(matrix.shape).into_iter().zip(tensors);
        let read = |(spec, tensor): (_, &TensorSpec)| {
            let part = Part::decode(&spec, matrix.dtype, &self.files.read(&tensor.name)?);
            part.map_err(CompressError::of_form(&matrix.name))
        };
        let parts = specs.map(read).collect::<Result<_, _>>()?;
        self.errors.insert(piece.name().into(), error);
        Ok(Some(StoredForm { parts, error }))
    }

    /// Writes a compressed matrix to its place, and notes it in the journal.
    pub fn put(&mut self, matrix: &MatrixPlan, made: &StoredForm) -> Result<(), CompressError> {
        let place = self.place(matrix);
        let (piece, tensors) = (&self.work.pieces[place], &self.work.tensors[place]);
        let content = encode(matrix, made)?;
        let source = piece.source_digest(self.work.checkpoint)?;
        let finished = write(piece, source, tensors, &content, &self.files)?;
        self.work.checkpoint.check_unchanged()?;
        if let Some(journal) = &mut self.journal {
            journal.note(&finished, true)?;
        }
        self.errors.insert(piece.name().into(), made.error);
        Ok(())
    }

    fn place(&self, matrix: &MatrixPlan) -> usize {
        let is_it = |piece: &Piece<'_>| matches!(piece, Piece::Compress(other) if other.name == matrix.name);
        self.work.pieces.iter().position(is_it).expect("every planned matrix is a piece")
    }

    /// Closes the files, if the weights that they were made from are still the same. Returns the
    /// errors of compressed pieces, by name.
    pub fn finish(self) -> Result<HashMap<String, StoredError>, CompressError> {
        self.work.checkpoint.check_unchanged()?;
        self.files.finish()?;
        Ok(self.errors)
    }
}

/// Makes a piece and writes it to its place, unless an earlier process did.
fn put<'a>(
    work: &Work<'a>,
    place: usize,
    files: &ShardWriter<'_>,
    known: &HashMap<String, Finished>,
    takes_notes: bool,
) -> Result<Done, CompressError> {
    let (piece, tensors) = (&work.pieces[place], &work.tensors[place]);
    let made = || -> Result<Done, CompressError> {
        if takes_notes {
            let source = piece.source_digest(work.checkpoint)?;
            if let Some(found) = is_known(known, piece, &source, tensors, files)? {
                return Ok(Done { error: found.error, finished: None, known: true });
            }
            let (content, known) = work.content(piece, tensors)?;
            let finished = write(piece, source, tensors, &content, files)?;
            // Before it is noted: the note says what it was made from.
            work.checkpoint.check_unchanged()?;
            return Ok(Done { error: content.error, finished: Some(finished), known });
        }
        let (content, known) = work.content(piece, tensors)?;
        write_tensors(tensors, &content.data, files)?;
        Ok(Done { error: content.error, finished: None, known })
    };
    let done = made();
    for tensor in piece.sources() {
        work.checkpoint.release(&tensor);
    }
    if let Ok(done) = &done {
        let what = if done.known { "made before" } else { "written" };
        match piece.steps() {
            0 => tracing::trace!("{}: {what}", piece.name()),
            _ => tracing::debug!("{}: {what}", piece.name()),
        }
    }
    done
}

/// The note of an earlier process about a piece, if its source and the written tensors are
/// unchanged.
fn is_known<'k>(
    known: &'k HashMap<String, Finished>,
    piece: &Piece<'_>,
    source: &str,
    tensors: &[TensorSpec],
    files: &ShardWriter<'_>,
) -> Result<Option<&'k Finished>, CompressError> {
    let Some(finished) = known.get(piece.name()) else { return Ok(None) };
    let compressed = matches!(piece, Piece::Compress(_));
    let same = finished.source == source
        && finished.error.is_some() == compressed
        && finished.written == files.digest(tensors)?;
    Ok(same.then_some(finished))
}

fn write(
    piece: &Piece<'_>,
    source: String,
    tensors: &[TensorSpec],
    content: &Content<'_>,
    files: &ShardWriter<'_>,
) -> Result<Finished, CompressError> {
    write_tensors(tensors, &content.data, files)?;
    let mut hasher = blake3::Hasher::new();
    for data in &content.data {
        hasher.update(data);
    }
    let written = hasher.finalize().to_hex().to_string();
    Ok(Finished { name: piece.name().to_string(), source, written, error: content.error })
}

fn write_tensors(
    tensors: &[TensorSpec],
    data: &[Cow<'_, [u8]>],
    files: &ShardWriter<'_>,
) -> Result<(), CompressError> {
    for (tensor, data) in tensors.iter().zip(data) {
        files.write(&tensor.name, data)?;
    }
    Ok(())
}
