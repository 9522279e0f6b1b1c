use super::super::tensor_type::TensorType;
use crate::named::Named;

/// Why a matrix cannot have a type of llama.cpp, or be read from it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// Rows do not fill blocks.
    #[error(
        "rows of {columns} entries; {name} needs a multiple of {block}",
        name = dtype.name(),
        block = dtype.block_len()
    )]
    Rows {
        /// Entries in a row.
        columns: usize,
        /// The type.
        dtype: TensorType,
    },
    /// Entries or bytes that do not make whole rows.
    #[error("{len} are not whole rows of {row}")]
    Length {
        /// Number of entries or bytes given.
        len: usize,
        /// Number of them in a row.
        row: usize,
    },
    /// Weights of columns that are not as many as the columns.
    #[error("{given} weights for {columns} columns")]
    Weights {
        /// Weights given.
        given: usize,
        /// Columns of the matrix.
        columns: usize,
    },
    /// The feedback of outputs is not for as many as there are rows.
    #[error("feedback between {given} outputs for {rows} rows")]
    Outputs {
        /// Outputs of the feedback.
        given: usize,
        /// Rows of the matrix.
        rows: usize,
    },
    /// The weight of a column is negative, infinite or not a number.
    #[error("the weight of column {column} is {value}")]
    Weight {
        /// The first such column.
        column: usize,
        /// Its weight.
        value: f64,
    },
    /// An entry is infinite or not a number.
    #[error("the entry at row {row}, column {column} is {value}")]
    NotFinite {
        /// Row of the first such entry.
        row: usize,
        /// Its column.
        column: usize,
        /// The entry.
        value: f32,
    },
    /// An entry is too large for the scales of the type, which are f16, or for the type itself. In
    /// llama.cpp it would become infinite.
    #[error("the entry at row {row}, column {column} is {value}, beyond {name}", name = dtype.name())]
    Overflow {
        /// Row of the first such block, or entry.
        row: usize,
        /// Column of the largest entry in that block.
        column: usize,
        /// The entry.
        value: f32,
        /// The type.
        dtype: TensorType,
    },
    /// Blocks that cannot be read.
    #[error("blocks of {name} cannot be read: {reason}", name = dtype.name())]
    Blocks {
        /// The type.
        dtype: TensorType,
        /// The reader's message.
        reason: String,
    },
}

impl QuantizeError {
    /// The same of a matrix that has so many rows above these.
    pub(crate) fn below(self, above: usize) -> Self {
        match self {
            Self::NotFinite { row, column, value } => {
                Self::NotFinite { row: row + above, column, value }
            }
            Self::Overflow { row, column, value, dtype } => {
                Self::Overflow { row: row + above, column, value, dtype }
            }
            other => other,
        }
    }
}
