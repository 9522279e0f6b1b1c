use std::collections::BTreeMap;

use super::blocks::Blocks;
use super::check::{check_calibration, check_measured, check_plan};
use super::convert::whole;
use super::error::CompressError;
use super::job::{Job, Work};
use super::options::Compressor;
use super::pieces::Piece;
use super::report::CompressReport;
use super::sink::Sink;
use crate::calibrate::is_tied;
use crate::checkpoint::{
    Checkpoint, PLAN_FILE, check_companions, copy_companions, state_compressed,
};
use crate::files::{OutputDir, write_file};
use crate::forms::StoredForm;
use crate::model::LanguageModel;
use crate::modules::MatrixName;
use crate::named::Named;
use crate::plan::MatrixPlan;
use crate::progress::Progress;

impl Compressor<'_> {
    /// Writes a compressed model directory: the low-rank components of the plan in their forms, in
    /// the type of the dense matrix, all other tensors byte for byte, the configuration
    /// ([`state_compressed`]), the tokenizer, and the plan, with the errors of what is stored. The
    /// model is never built.
    ///
    /// Every tensor is written to its place in its shard as soon as it is ready, so memory is
    /// bounded by the matrices in flight ([`Budget`](crate::workers::Budget)), not by the size of
    /// the model or of a shard.
    ///
    /// In a [`resumable`](OutputDir::resumable) directory, finished matrices survive the process:
    /// the same call resumes from them and writes the same bytes. It first checks them against the
    /// digests of their sources and of what was written.
    ///
    /// The caller commits `output`, and can add more files before.
    ///
    /// # Errors
    ///
    /// [`CompressError`]; the plan and the budget are checked before anything is written.
    /// [`CompressError::NeedsModel`] with [`BlockwiseOptions`](super::BlockwiseOptions): use
    /// [`directory_with`](Compressor::directory_with).
    pub fn directory(
        &self,
        checkpoint: &Checkpoint,
        output: &OutputDir,
        progress: &mut dyn Progress,
    ) -> Result<CompressReport, CompressError> {
        if self.blockwise.is_some() {
            return Err(CompressError::NeedsModel);
        }
        self.write(checkpoint, output, &[], |job| {
            job.make("factoring", "matrices", |_| true, progress)
        })
    }

    /// Like [`directory`](Compressor::directory), but can also compress block by block. `model` is
    /// the dense model, loaded from `checkpoint` on its autodiff device in f32. Finished blocks
    /// survive the process. Later matrices use the earlier ones as they are stored; where blocks are
    /// refined, those of earlier blocks. The plan says which dense matrices were
    /// [adapted](super::BlockwiseOptions::adapt_dense).
    ///
    /// # Errors
    ///
    /// [`CompressError`].
    pub fn directory_with<M: LanguageModel>(
        &self,
        model: M,
        checkpoint: &Checkpoint,
        output: &OutputDir,
        progress: &mut dyn Progress,
    ) -> Result<CompressReport, CompressError> {
        let Some(options) = &self.blockwise else {
            return self.directory(checkpoint, output, progress);
        };
        let blocks = Blocks::new(self, options, &model)?;
        let adapted: Vec<&MatrixPlan> = blocks.adapted().collect();
        self.write(checkpoint, output, &adapted, |job| {
            job.make(
                "copying",
                "tensors",
                |piece| matches!(piece, Piece::Copy(_) | Piece::Integers(_)),
                progress,
            )?;
            blocks.run(model, &mut Written(job), progress).map(drop)
        })
    }

    /// Writes the directory; `adapted` are the dense matrices that do not stay as they are.
    fn write(
        &self,
        checkpoint: &Checkpoint,
        output: &OutputDir,
        adapted: &[&MatrixPlan],
        make: impl FnOnce(&mut Job<'_, '_>) -> Result<(), CompressError>,
    ) -> Result<CompressReport, CompressError> {
        check_companions(checkpoint.dir())?;
        check_plan(checkpoint, self.plan)?;
        if let Some(calibration) = self.norms.calibration() {
            check_calibration(self.plan, calibration)?;
            adapted.iter().try_for_each(|matrix| check_measured(matrix, calibration))?;
        }
        let plan = self.plan.clone().without_errors();
        let origin = format!("{}{}", plan.to_json(), self.identity());
        let work = self.work(checkpoint, adapted, origin)?;
        let write = || -> Result<CompressReport, CompressError> {
            let mut job = Job::begin(&work, output)?;
            make(&mut job)?;
            let errors = job.finish()?;
            copy_companions(checkpoint.dir(), output.path())?;
            let sequential = self.blockwise.as_ref().is_some_and(|options| options.follows());
            let mut report = CompressReport { sequential, ..CompressReport::default() };
            for piece in &work.pieces {
                if let Piece::Compress(matrix) = piece
                    && let Some(error) = errors.get(matrix.name.as_str())
                {
                    report.add(matrix, *error, self.norms.is_of_loss(&matrix.name));
                }
            }
            let plan = report.noted_in(&plan).to_json();
            write_file(output.path().join(PLAN_FILE), plan.as_bytes())?;
            state_compressed(output.path())?;
            Ok(report)
        };
        write().map_err(|error| error.about(output))
    }

    /// All tensors of the result, and what they are made from.
    pub(super) fn work<'w>(
        &'w self,
        checkpoint: &'w Checkpoint,
        adapted: &[&'w MatrixPlan],
        origin: String,
    ) -> Result<Work<'w>, CompressError> {
        let made = self.plan.compressed().chain(adapted.iter().copied());
        let planned: BTreeMap<&MatrixName, &MatrixPlan> =
            made.map(|matrix| (&matrix.name, matrix)).collect();
        let piece = |tensor| {
            let name = MatrixName::of_weight(tensor);
            match name.and_then(|name| planned.get(&name).copied()) {
                Some(matrix) => Ok(Piece::Compress(matrix)),
                None => whole(checkpoint, tensor, None),
            }
        };
        let pieces = checkpoint.names().map(piece).collect::<Result<Vec<_>, CompressError>>()?;
        let norms = self.norms.clone().for_tied(is_tied(checkpoint));
        let mut work = Work::new("factoring", origin, checkpoint, pieces, norms, self.write)?;
        (work.rounding, work.kept) = (self.rounding, self.kept);
        Ok(work)
    }

    /// Identifies what the result depends on, apart from the plan and the checkpoint.
    fn identity(&self) -> String {
        let (norms, rounding) = (self.norms.identity().unwrap_or_default(), self.rounding.name());
        match &self.blockwise {
            Some(options) => format!("{norms}{}{rounding}", options.identity()),
            None => format!("{norms}{rounding}"),
        }
    }
}

/// Writes finished matrices to their places in files.
struct Written<'j, 'w, 'a>(&'j mut Job<'w, 'a>);

impl Sink for Written<'_, '_, '_> {
    fn find(&mut self, matrix: &MatrixPlan) -> Result<Option<StoredForm>, CompressError> {
        self.0.find(matrix)
    }

    fn put(&mut self, matrix: &MatrixPlan, made: &StoredForm) -> Result<(), CompressError> {
        self.0.put(matrix, made)
    }

    fn rounds(&self) -> bool {
        true
    }
}
