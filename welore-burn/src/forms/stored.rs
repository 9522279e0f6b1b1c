//! What is stored of a matrix in a form: its numbers in a type, and how far that is from the matrix.

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::error::FormError;
use super::form::Form;
use super::matrix_form::Made;
use super::part::{Part, PartKind};
use super::rounding::relative_error;
use crate::linalg::{LinalgError, Matrix, Weighting};
use crate::named::named;

/// How the numbers of factored matrices are rounded to types of 16 bits. Wider types keep more
/// digits than a factored matrix has, and each number becomes the nearest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rounding {
    /// Each number to the nearest.
    Nearest,
    /// Numbers make up for what the rounding of others loses, in the norm that the matrix is made in:
    /// the right factor or the pivot rows are rounded first, the other factor is fitted to what became
    /// of them, and both are rounded with feedback (GPTQ, as for blocks). Pivots are exchanged until no
    /// coefficient is above 1.05, before a matrix is refined if it is; what is fitted to is the refined
    /// matrix then. Where the nearest numbers come closer, these are stored. Two
    /// factors in the norm of the weights are rounded to the nearest, as in published checkpoints.
    #[default]
    Fitted,
}

named!(Rounding {
    Nearest => "nearest", "each number to the nearest";
    Fitted => "fitted", "numbers make up for what the rounding of others loses";
});

/// How far what is stored is from a matrix, in the norm that it was made in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredError {
    /// `‖W - W'‖ / ‖W‖` as computed, before anything is rounded to a stored type.
    pub relative_error: f64,
    /// The same as stored. In types wider than 16 bits it is the error as computed, unless the matrix was
    /// refined: what rounding adds there is below all digits that matter.
    pub stored_error: f64,
    /// `‖W‖` in this norm.
    pub size: f64,
}

impl StoredError {
    /// Half of the squared error as computed: in the norm of both second moments, the rise of the loss
    /// in nats per token, to second order.
    pub fn loss(&self) -> f64 {
        0.5 * (self.relative_error * self.size).powi(2)
    }

    /// The same for what is stored.
    pub fn stored_loss(&self) -> f64 {
        0.5 * (self.stored_error * self.size).powi(2)
    }

    /// Whether there can be such an error: files can state any.
    pub(crate) fn is_possible(&self) -> bool {
        let Self { relative_error, stored_error, size } = *self;
        [relative_error, stored_error, size].iter().all(|x| (0.0..=f64::MAX).contains(x))
    }
}

/// A matrix in a form, in the type in which it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredForm {
    /// The content of its tensors. All numbers are of the type, except those that it cannot hold, which
    /// [`Part::encode`] refuses.
    pub parts: Vec<Part>,
    /// How far they are from the matrix.
    pub error: StoredError,
}

impl From<Made> for StoredForm {
    /// As it was computed.
    fn from(made: Made) -> Self {
        let Made { parts, relative_error, size } = made;
        let error = StoredError { relative_error, stored_error: relative_error, size };
        Self { parts, error }
    }
}

/// Whether rounding to a type loses digits that a factored matrix has.
fn is_narrow(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16)
}

impl Form {
    /// Whether numbers of a matrix in this form are rounded when they are stored in a type.
    pub(crate) fn is_rounded_in(&self, shape: [usize; 2], dtype: Dtype) -> bool {
        is_narrow(dtype) && self.parts(shape).iter().any(|part| part.kind == PartKind::Numbers)
    }

    /// The matrix in this form as it is stored in a type, with the smallest error in a norm that the
    /// form allows, and with its errors.
    ///
    /// # Errors
    ///
    /// [`FormError`]. Numbers that the type cannot hold are no error yet.
    pub fn make_stored(
        &self,
        matrix: &Matrix,
        norm: &Weighting,
        dtype: Dtype,
        rounding: Rounding,
    ) -> Result<StoredForm, FormError> {
        let shape = [matrix.rows(), matrix.cols()];
        if !self.is_rounded_in(shape, dtype) {
            return Ok(self.make(matrix, norm)?.into());
        }
        let made = match rounding {
            Rounding::Nearest => self.make(matrix, norm)?,
            Rounding::Fitted => self.make_to_round(matrix, norm)?,
        };
        let (best, norm) = (norm.best(matrix)?, norm.of_best());
        let measured = |parts: Vec<Part>| -> Result<(Vec<Part>, f64), FormError> {
            let stored = self.merge(shape, parts.clone())?;
            let error = relative_error(&norm, &best, &stored)?;
            Ok((parts, error))
        };
        let nearest = made.parts.iter().map(|part| part.as_stored(dtype));
        let nearest = unless_too_large(nearest.collect::<Result<Vec<Part>, FormError>>())?;
        let Some(nearest) = nearest else { return Ok(made.into()) };
        let (mut parts, mut stored_error) = measured(nearest)?;
        let fitted = match rounding {
            Rounding::Nearest => None,
            Rounding::Fitted => unless_too_large(self.fitted(&made.parts, &best, &norm, dtype))?,
        };
        if let Some(fitted) = fitted.flatten() {
            let (fitted, error) = measured(fitted)?;
            if error < stored_error {
                (parts, stored_error) = (fitted, error);
            }
        }
        let Made { relative_error, size, .. } = made;
        Ok(StoredForm { parts, error: StoredError { relative_error, stored_error, size } })
    }

    /// The matrix in this form as it is computed, to be refined, and then rounded to a type.
    ///
    /// # Errors
    ///
    /// [`FormError`].
    pub(crate) fn make_to_refine(
        &self,
        matrix: &Matrix,
        norm: &Weighting,
        dtype: Dtype,
        rounding: Rounding,
    ) -> Result<StoredForm, FormError> {
        let is_rounded = self.is_rounded_in([matrix.rows(), matrix.cols()], dtype);
        let made = match rounding {
            Rounding::Fitted if is_rounded => self.make_to_round(matrix, norm)?,
            Rounding::Fitted | Rounding::Nearest => self.make(matrix, norm)?,
        };
        Ok(made.into())
    }

    /// These parts of a matrix in this form, rounded to a type so that numbers make up for each other, in
    /// a norm for what the parts give. `None` if the nearest numbers are to be stored.
    ///
    /// # Errors
    ///
    /// [`FormError`], also for parts that do not belong to the form.
    pub(crate) fn refitted(
        &self,
        shape: [usize; 2],
        parts: &[Part],
        norm: &Weighting,
        dtype: Dtype,
    ) -> Result<Option<Vec<Part>>, FormError> {
        if !self.is_rounded_in(shape, dtype) {
            return Ok(None);
        }
        let (refined, norm) = (self.merge(shape, parts.to_vec())?, norm.of_best());
        let fitted = unless_too_large(self.fitted(parts, &refined, &norm, dtype))?;
        let nearest = parts.iter().map(|part| part.as_stored(dtype));
        let nearest = unless_too_large(nearest.collect::<Result<Vec<Part>, FormError>>())?;
        let (Some(fitted), Some(nearest)) = (fitted.flatten(), nearest) else { return Ok(None) };
        let error = |parts: Vec<Part>| -> Result<f64, FormError> {
            relative_error(&norm, &refined, &self.merge(shape, parts)?)
        };
        let is_nearer = error(fitted.clone())? < error(nearest)?;
        Ok(is_nearer.then_some(fitted))
    }

    /// `‖W - W'‖ / ‖W‖` in a norm, of a matrix and what these parts of it in this form give.
    ///
    /// # Errors
    ///
    /// [`FormError`], also for parts that do not belong to the form.
    pub(crate) fn error_of(
        &self,
        matrix: &Matrix,
        norm: &Weighting,
        parts: Vec<Part>,
    ) -> Result<f64, FormError> {
        let stored = self.merge([matrix.rows(), matrix.cols()], parts)?;
        relative_error(&norm.of_best(), &norm.best(matrix)?, &stored)
    }
}

/// The result, or `None` where numbers are too large for what was tried.
fn unless_too_large<T>(result: Result<T, FormError>) -> Result<Option<T>, FormError> {
    match result {
        Err(
            FormError::Overflow { .. }
            | FormError::Linalg(LinalgError::NotFinite { .. } | LinalgError::NoConvergence),
        ) => Ok(None),
        other => other.map(Some),
    }
}
