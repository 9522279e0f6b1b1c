//! The files of llama.cpp, GGUF: metadata and tensors, whatever they describe.
//!
//! The anamnesis crate reads headers, writes metadata and dequantizes: it checks every count, length
//! and range against the file before it allocates, its kernels are tested against ggml's own, and
//! it brings no other crates. candle-core and pmetal-gguf bring many more, ggus and rlx-gguf trust
//! the counts or the alignment in a header, and gguf-rs-lib dequantizes nothing.

mod error;
mod file;
mod layer_names;
mod product;
mod quantize;
mod read_only;
mod split;
mod tensor_type;
mod writer;
mod written_type;

pub use anamnesis::{GgufMetadataArray as Values, GgufMetadataValue as Value};
pub use error::ContainerError;
pub(crate) use file::{GgufFile, StoredTensor};
pub(crate) use layer_names::{
    is_router, matrix_in_stack, matrix_of_tensor, stack_of_matrix, tensor_of_matrix,
};
pub use quantize::QuantizeError;
pub(crate) use quantize::ROWS_AT_ONCE;
pub(crate) use read_only::{dequantize_row, is_read_only};
pub use tensor_type::TensorType;
pub(crate) use writer::ALIGNMENT;
pub use writer::{GgufLayout, GgufTensorSpec, GgufWriter};
pub use written_type::WrittenType;
