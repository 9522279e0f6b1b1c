//! What a calibration says about embedding and head.

use super::calibration::Calibration;
use super::error::CalibrationError;
use crate::checkpoint::Checkpoint;
use crate::linalg::SecondMoment;
use crate::model::TokenMatrix;

/// Whether a tensor is embedding or head, whose rows belong to tokens.
pub fn is_token_matrix(tensor: &str) -> bool {
    TokenMatrix::of(tensor).is_some()
}

/// Whether the head of a model is its embedding.
pub fn is_tied(checkpoint: &Checkpoint) -> bool {
    !checkpoint.names().any(|name| TokenMatrix::of(name) == Some(TokenMatrix::Head))
}

impl Calibration {
    /// What is known about the rows of embedding or head, as if it were the second moment of their
    /// inputs: to second order, an error `e` of the row of a token costs `½ e M eᵀ` times how often the
    /// token occurs, with the second moment `M` of the gradients of what the embedding gives, of the
    /// inputs of the head, or both for a matrix that is both. `None` if nothing is known.
    ///
    /// `is_tied` says whether the model has no head besides its embedding.
    ///
    /// # Errors
    ///
    /// Errors of reading.
    pub fn token_rows(
        &self,
        tensor: &str,
        is_tied: bool,
    ) -> Result<Option<SecondMoment>, CalibrationError> {
        Ok(match TokenMatrix::of(tensor) {
            Some(TokenMatrix::Head) => self.head_inputs()?,
            Some(TokenMatrix::Embedding) if is_tied => {
                match (self.head_inputs()?, self.embedding_outputs()?) {
                    (Some(head), Some(embedding)) => Some(head.plus(&embedding)),
                    _ => None,
                }
            }
            Some(TokenMatrix::Embedding) => self.embedding_outputs()?,
            None => None,
        })
    }
}
