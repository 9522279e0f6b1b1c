//! Checks before anything is decomposed or written.

use std::collections::BTreeMap;

use burn::module::Module;

use super::error::CompressError;
use super::options::BlockwiseOptions;
use crate::calibrate::{Calibration, CalibrationError, is_token_matrix};
use crate::checkpoint::Checkpoint;
use crate::forms::{Form, FormError, LiveMatrix, matrices};
use crate::model::LanguageModel;
use crate::modules::MatrixName;
use crate::plan::{MatrixPlan, RankPlan};
use crate::spectrum::Method;
use crate::workers::{Workers, cores};

/// Checks that a plan belongs to a checkpoint: every matrix exists, is dense, and has the planned
/// shape and type and, if the plan contains digests, exactly the bytes that it was made for.
///
/// # Errors
///
/// [`CompressError::ForeignPlan`], [`CompressError::Form`], also for a convolution in another form than
/// two factors.
pub fn check_plan(checkpoint: &Checkpoint, plan: &RankPlan) -> Result<(), CompressError> {
    for matrix in &plan.matrices {
        let foreign = |reason: String| CompressError::ForeignPlan { reason };
        let (name, tensor) = (&matrix.name, matrix.name.weight());
        if checkpoint.stored_matrix(name).is_some_and(|stored| stored.form != Form::dense()) {
            return Err(CompressError::of_form(name)(FormError::NotDense));
        }
        let is_stored_so = [Form::dense(), Form::factors(matrix.rank)].contains(&matrix.form);
        if checkpoint.is_convolution(name) && !is_stored_so {
            let reason = "it is a convolution, which is stored in two factors alone".into();
            return Err(CompressError::of_form(name)(FormError::Impossible(reason)));
        }
        let Some(meta) = checkpoint.meta(&tensor) else {
            return Err(foreign(format!("there is no `{tensor}`")));
        };
        if meta.shape != matrix.shape || meta.dtype != matrix.dtype {
            return Err(foreign(format!(
                "`{tensor}` is {} {:?}, but {} {:?} in the plan",
                meta.dtype, meta.shape, matrix.dtype, matrix.shape
            )));
        }
    }
    // Every byte is read, with all cores. Memory holds only the part of the file being hashed.
    let check = |index: usize| check_digest(checkpoint, &plan.matrices[index]);
    Workers::new(cores()).try_spread(plan.matrices.len(), check, |_, ()| Ok(()))
}

fn check_digest(checkpoint: &Checkpoint, matrix: &MatrixPlan) -> Result<(), CompressError> {
    let Some(digest) = &matrix.digest else { return Ok(()) };
    let tensor = matrix.name.weight();
    let found = checkpoint.digest(&tensor)?;
    checkpoint.release(&tensor);
    if *digest == found {
        return Ok(());
    }
    let reason = format!("`{tensor}` has weights other than those the plan was made for");
    Err(CompressError::ForeignPlan { reason })
}

/// Checks that a calibration was measured on matrices of the shapes in a plan, and on the weights that
/// the plan is for, if both contain digests.
///
/// # Errors
///
/// [`CalibrationError::Foreign`].
pub fn check_calibration(
    plan: &RankPlan,
    calibration: &Calibration,
) -> Result<(), CalibrationError> {
    plan.compressed().try_for_each(|matrix| check_measured(matrix, calibration))
}

/// The same for one matrix.
pub(super) fn check_measured(
    matrix: &MatrixPlan,
    calibration: &Calibration,
) -> Result<(), CalibrationError> {
    // The rows of embedding and head are known by other names, or not at all.
    if is_token_matrix(&matrix.name.weight()) && !calibration.knows(&matrix.name) {
        return Ok(());
    }
    calibration.check_shape(&matrix.name, matrix.shape)?;
    match &matrix.digest {
        Some(digest) => calibration.check(&matrix.name, digest),
        None => Ok(()),
    }
}

/// The matrices of a module that a plan compresses, after checking that they exist, are dense, and
/// have the planned shape. Initializes no parameters.
pub(super) fn planned_matrices(
    module: &impl Module,
    plan: &RankPlan,
) -> Result<Vec<LiveMatrix>, CompressError> {
    let found = matrices(module);
    // A compressed weight may have a plausible shape by accident, so this comes first.
    for matrix in &found {
        if let Err(source @ FormError::NotDense) = matrix.check_dense() {
            return Err(CompressError::of_form(&matrix.name)(source));
        }
    }
    let mut found: BTreeMap<MatrixName, LiveMatrix> =
        found.into_iter().map(|matrix| (matrix.name.clone(), matrix)).collect();
    let planned = plan.compressed().map(|planned| {
        let foreign = |reason: String| CompressError::ForeignPlan { reason };
        let matrix = found.remove(&planned.name).ok_or_else(|| {
            foreign(format!("it names `{}`, which the model does not have", planned.name))
        })?;
        matrix.check_dense().map_err(CompressError::of_form(&planned.name))?;
        if matrix.shape != planned.shape {
            let (name, found, planned) = (&planned.name, matrix.shape, planned.shape);
            return Err(foreign(format!(
                "`{name}` is {found:?} in the model and {planned:?} in the plan"
            )));
        }
        Ok(matrix)
    });
    planned.collect()
}

/// The windows of text that a model reads, after checking that it can, and that a norm knows the
/// inputs that are to be followed.
pub(super) fn readable_text(
    options: &BlockwiseOptions<'_>,
    model: &impl LanguageModel,
    norm: Method,
) -> Result<Vec<Vec<u32>>, CompressError> {
    if norm == Method::Svd && options.follows() {
        return Err(CompressError::NeedsCalibration);
    }
    let mut text = options.calibration.windows()?;
    text.truncate(options.windows.unwrap_or(usize::MAX));
    if text.is_empty() {
        return Err(CompressError::NoText);
    }
    let (vocab_size, context) = (model.vocab_size(), model.context());
    if let Some(seq_len) = text.iter().map(Vec::len).find(|length| *length > context) {
        return Err(CalibrationError::Context { seq_len, context }.into());
    }
    if let Some(token) = text.iter().flatten().find(|token| **token as usize >= vocab_size) {
        return Err(CalibrationError::UnknownToken { token: *token, vocab_size }.into());
    }
    Ok(text)
}
