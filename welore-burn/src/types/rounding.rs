//! How matrices are rounded into blocks.

use crate::ggml::{QuantizeError, ROWS_AT_ONCE, TensorType};
use crate::linalg::{Feedback, LinalgError, SecondMoment};
use crate::progress::{Interrupted, Progress};

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

    /// The same, tile by tile of rows, between which the work may be stopped: an embedding may take
    /// minutes. Where rows make up for each other, all are one tile. `about` names the tensor in errors.
    ///
    /// # Errors
    ///
    /// [`QuantizeError`] as `about` gives it, and [`Interrupted`].
    pub(super) fn quantize_in_tiles<E: From<Interrupted>>(
        &self,
        dtype: TensorType,
        entries: &[f32],
        columns: usize,
        progress: &mut dyn Progress,
        about: impl Fn(QuantizeError) -> E,
    ) -> Result<Vec<u8>, E> {
        let rows = rows_of_tile(columns);
        self.in_tiles(dtype, (entries, columns), rows, progress, about)
    }

    fn in_tiles<E: From<Interrupted>>(
        &self,
        dtype: TensorType,
        (entries, columns): (&[f32], usize),
        rows: usize,
        progress: &mut dyn Progress,
        about: impl Fn(QuantizeError) -> E,
    ) -> Result<Vec<u8>, E> {
        progress.check()?;
        let tile = rows.saturating_mul(columns);
        let is_one = matches!(self, Self::Feedback(_, Some(_))) || entries.len() <= tile;
        // What makes no whole rows is refused as a whole.
        if is_one || columns == 0 || !entries.len().is_multiple_of(columns) {
            return self.quantize(dtype, entries, columns).map_err(about);
        }
        let row_bytes = dtype.row_bytes(columns).unwrap_or(0);
        let mut bytes = Vec::with_capacity(entries.len() / columns * row_bytes);
        for (place, tile) in entries.chunks(tile).enumerate() {
            progress.check()?;
            let made = self.quantize(dtype, tile, columns);
            bytes.extend(made.map_err(|error| about(error.below(place * rows)))?);
        }
        Ok(bytes)
    }
}

/// Rows of a tile: about a million entries, and enough for all threads. Rows that are rounded together
/// stay together, so results are those of the whole matrix.
fn rows_of_tile(columns: usize) -> usize {
    let for_threads = 2 * ROWS_AT_ONCE * rayon::current_num_threads();
    ((1 << 20) / columns.max(1)).max(for_threads).next_multiple_of(ROWS_AT_ONCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: usize = 32;
    const ROWS: usize = 4 * ROWS_AT_ONCE + 7;

    fn entries(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * i % 9973) as f32 * 0.37).sin()).collect()
    }

    fn all_inputs() -> [Inputs; 4] {
        let moment = |size: usize| {
            let mut moment = SecondMoment::new(size);
            moment.add(&entries(20 * size));
            moment
        };
        let (inputs, outputs) = (moment(COLUMNS), moment(ROWS));
        let squares = Inputs::Squares(inputs.squares());
        let fed = |outputs| Inputs::of(&inputs, outputs, Rounding::default()).unwrap();
        [Inputs::Unknown, squares, fed(None), fed(Some(&outputs))]
    }

    /// Stops at the check after so many.
    struct Stop(usize);

    impl Progress for Stop {
        fn begin(&mut self, _what: &str, _total: usize) {}

        fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
            Ok(())
        }

        fn check(&mut self) -> Result<(), Interrupted> {
            self.0 = self.0.checked_sub(1).ok_or(Interrupted)?;
            Ok(())
        }
    }

    /// What went wrong.
    #[derive(Debug, PartialEq)]
    enum Wrong {
        Quantize(QuantizeError),
        Stopped,
    }

    impl From<Interrupted> for Wrong {
        fn from(_: Interrupted) -> Self {
            Self::Stopped
        }
    }

    fn tiled(inputs: &Inputs, entries: &[f32], checks: usize) -> Result<Vec<u8>, Wrong> {
        let matrix = (entries, COLUMNS);
        let mut stop = Stop(checks);
        inputs.in_tiles(TensorType::Q4_0, matrix, ROWS_AT_ONCE, &mut stop, Wrong::Quantize)
    }

    #[test]
    fn tiles_are_what_the_whole_matrix_is() {
        let entries = entries(ROWS * COLUMNS);
        for inputs in all_inputs() {
            let whole = inputs.quantize(TensorType::Q4_0, &entries, COLUMNS).unwrap();
            assert!(tiled(&inputs, &entries, usize::MAX).unwrap() == whole, "{inputs:?}");
        }
        assert!(rows_of_tile(1 << 14).is_multiple_of(ROWS_AT_ONCE));
    }

    #[test]
    fn work_is_stopped_between_tiles_and_errors_name_the_row_of_the_matrix() {
        let mut entries = entries(ROWS * COLUMNS);
        let stopped = tiled(&Inputs::Unknown, &entries, 3);
        assert_eq!(stopped, Err(Wrong::Stopped));
        let wrong = 3 * ROWS_AT_ONCE + 5;
        entries[wrong * COLUMNS + 9] = f32::INFINITY;
        let error = tiled(&Inputs::Unknown, &entries, usize::MAX).unwrap_err();
        let expected = QuantizeError::NotFinite { row: wrong, column: 9, value: f32::INFINITY };
        assert_eq!(error, Wrong::Quantize(expected));
    }
}
