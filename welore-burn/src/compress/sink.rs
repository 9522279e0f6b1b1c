//! Where the matrices of a model that is compressed block by block go.

use super::error::CompressError;
use crate::forms::StoredForm;
use crate::plan::MatrixPlan;

/// Where finished matrices go.
pub(super) trait Sink {
    /// A matrix that an earlier process compressed, if there is one.
    fn find(&mut self, matrix: &MatrixPlan) -> Result<Option<StoredForm>, CompressError>;

    /// Takes a finished matrix.
    fn put(&mut self, matrix: &MatrixPlan, made: &StoredForm) -> Result<(), CompressError>;

    /// Whether matrices are rounded to their stored type before later ones use them.
    fn rounds(&self) -> bool;
}

/// Matrices stay only in the model.
pub(super) struct Nowhere;

impl Sink for Nowhere {
    fn find(&mut self, _matrix: &MatrixPlan) -> Result<Option<StoredForm>, CompressError> {
        Ok(None)
    }

    fn put(&mut self, _matrix: &MatrixPlan, _made: &StoredForm) -> Result<(), CompressError> {
        Ok(())
    }

    fn rounds(&self) -> bool {
        false
    }
}
