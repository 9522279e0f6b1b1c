//! How matrices are rounded into blocks.

use crate::ggml::{QuantizeError, TensorType};
use crate::linalg::{Feedback, LinalgError, SecondMoment};

/// How matrices are rounded into blocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rounding {
    /// Whether the columns of a matrix make up for what those before them lost (GPTQ), where the
    /// second moment of its inputs is known. Otherwise the squared inputs weight the errors.
    pub feedback: bool,
    /// Amount added to the diagonal of that second moment, as a share of its mean.
    pub shrink: f64,
}

impl Rounding {
    /// Identifies it where costs are kept.
    pub(super) fn key(self) -> String {
        format!("feedback {} shrink {}", self.feedback, self.shrink)
    }
}

impl Default for Rounding {
    /// With feedback, and 0.01 as in GPTQ.
    fn default() -> Self {
        Self { feedback: true, shrink: 0.01 }
    }
}

/// What is known about the inputs of a matrix, ready to round it.
#[derive(Debug)]
pub enum Inputs {
    /// Nothing.
    Unknown,
    /// The mean squares of the inputs.
    Squares(Vec<f64>),
    /// How columns make up for others.
    Feedback(Box<Feedback>),
}

impl Inputs {
    /// For inputs of this second moment.
    ///
    /// # Errors
    ///
    /// [`LinalgError`].
    pub fn of(moment: &SecondMoment, rounding: Rounding) -> Result<Self, LinalgError> {
        match rounding.feedback && !moment.is_diagonal() {
            true => Ok(Self::Feedback(Box::new(Feedback::new(moment, rounding.shrink)?))),
            false => Ok(Self::Squares(moment.squares())),
        }
    }

    /// A matrix of rows of `columns` entries in this type, as llama.cpp stores it.
    ///
    /// # Errors
    ///
    /// [`QuantizeError`].
    pub fn quantize(
        &self,
        dtype: TensorType,
        entries: &[f32],
        columns: usize,
    ) -> Result<Vec<u8>, QuantizeError> {
        match self {
            Self::Unknown => dtype.quantize(entries, columns, None),
            Self::Squares(squares) => dtype.quantize(entries, columns, Some(squares)),
            Self::Feedback(feedback) => dtype.quantize_with_feedback(entries, columns, feedback),
        }
    }
}
