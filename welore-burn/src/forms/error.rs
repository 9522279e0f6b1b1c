use safetensors::Dtype;

use crate::ggml::QuantizeError;
use crate::linalg::LinalgError;
use crate::words::number_of;

/// Why a matrix cannot be stored in a form, or read from it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// A value does not fit the type in which it should be stored.
    #[error("{value:e} does not fit {dtype}")]
    Overflow {
        /// The value.
        value: f64,
        /// The type.
        dtype: Dtype,
    },
    /// The pivots are not distinct rows of their matrix.
    #[error("the pivots are not {} of {rows}", number_of(*rank, "distinct row"))]
    Pivots {
        /// The number of pivots that there should be.
        rank: usize,
        /// The number of rows of the matrix.
        rows: usize,
    },
    /// The parts do not belong to the form.
    #[error("the stored parts do not make a {0} matrix")]
    Parts(&'static str),
    /// The matrix cannot have this form.
    #[error("{0}")]
    Impossible(String),
    /// The weight is transposed in records.
    #[error("the weight has LinearLayout::Col, which cannot be factored; use LinearLayout::Row")]
    Layout,
    /// The weight is already factored or packed, or has an adapter.
    #[error("the weight is already factored or packed, or has an adapter; merge it first")]
    NotDense,
    /// The weight has an adapter.
    #[error("the weight has an adapter; merge it first")]
    Adapted,
    /// The weight is quantized, so its values are not those that it was trained with.
    #[error("the weight is quantized; factor it before quantizing it")]
    Quantized,
    /// A block has a scale that is infinite or not a number.
    #[error("a scale of block {block} is infinite or not a number")]
    Scale {
        /// Position of the first such block, row after row.
        block: usize,
    },
    /// The matrix cannot be stored in blocks, or read from them.
    #[error("{0}")]
    Blocks(#[from] QuantizeError),
    /// A decomposition or a product failed.
    #[error("{0}")]
    Linalg(#[from] LinalgError),
}
