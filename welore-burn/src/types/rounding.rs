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
    /// The same for the gradients of the outputs, whose second moment says how rows make up for each
    /// other (YAQA); `None` if they do not.
    pub shrink_outputs: Option<f64>,
}

impl Rounding {
    /// Identifies it where costs are kept.
    pub(super) fn key(self) -> String {
        let Self { feedback, shrink, shrink_outputs } = self;
        format!("feedback {feedback} shrink {shrink} outputs {shrink_outputs:?}")
    }
}

impl Default for Rounding {
    /// With feedback between columns, shrunk by 0.01 as in GPTQ, and between rows.
    fn default() -> Self {
        Self { feedback: true, shrink: 0.01, shrink_outputs: Some(0.1) }
    }
}

/// What is known about the inputs and outputs of a matrix, ready to round it.
#[derive(Debug)]
pub enum Inputs {
    /// Nothing.
    Unknown,
    /// The mean squares of the inputs.
    Squares(Vec<f64>),
    /// How columns make up for others, and how rows do.
    Feedback(Box<Feedback>, Option<Box<Feedback>>),
}

impl Inputs {
    /// For inputs of this second moment, and outputs whose gradients have that one, if it is known.
    ///
    /// # Errors
    ///
    /// [`LinalgError`].
    pub fn of(
        inputs: &SecondMoment,
        outputs: Option<&SecondMoment>,
        rounding: Rounding,
    ) -> Result<Self, LinalgError> {
        if !rounding.feedback || inputs.is_diagonal() {
            return Ok(Self::Squares(inputs.squares()));
        }
        let columns = Feedback::new(inputs, rounding.shrink)?;
        // Without gradients there is nothing to make up for.
        let outputs = outputs.filter(|outputs| outputs.squares().iter().any(|x| *x > 0.0));
        let rows = outputs.zip(rounding.shrink_outputs);
        let rows = rows.map(|(outputs, shrink)| Feedback::new(outputs, shrink)).transpose()?;
        Ok(Self::Feedback(Box::new(columns), rows.map(Box::new)))
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
            Self::Feedback(inputs, outputs) => {
                dtype.quantize_with_feedback(entries, columns, inputs, outputs.as_deref())
            }
        }
    }
}
