use safetensors::Dtype;

use crate::linalg::LinalgError;

/// Why a matrix cannot be stored in a form, or read from it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FormError {
    /// A value does not fit the type that it should be stored in.
    #[error("{value:e} does not fit {dtype}")]
    Overflow {
        /// The value.
        value: f64,
        /// The type.
        dtype: Dtype,
    },
    /// Pivots that are not different rows of their matrix.
    #[error("the pivots are not {rank} different rows of {rows}")]
    Pivots {
        /// How many pivots there should be.
        rank: usize,
        /// Rows of the matrix.
        rows: usize,
    },
    /// The parts do not belong to the form.
    #[error("the stored parts do not make a {0} matrix")]
    Parts(&'static str),
    /// The matrix cannot have this form.
    #[error("{0}")]
    Impossible(String),
    /// A weight that is transposed in records.
    #[error("the weight has LinearLayout::Col, which cannot be factored; use LinearLayout::Row")]
    Layout,
    /// A weight that is factored already, or has an adapter.
    #[error("the weight is factored already, or has an adapter; merge it first")]
    NotDense,
    /// A quantized weight, whose values are not those that it was trained with.
    #[error("the weight is quantized; factor it before it is quantized")]
    Quantized,
    /// A decomposition or a product failed.
    #[error("{0}")]
    Linalg(#[from] LinalgError),
}
