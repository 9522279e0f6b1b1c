//! How a weight matrix is stored, in files and in modules.
//!
//! A [`Form`] provides everything that other code needs to know about it: tensors and types,
//! parameters and bytes, how a matrix is brought into it, and what a layer multiplies by. No code
//! outside this room depends on which form a matrix has. Each form is a file here and a line in the
//! tables of `form.rs`.
//!
//! In a module, a factored weight uses Burn's own parameter reparameterization, as [`LowRank`], and so
//! does one in llama.cpp's blocks, as [`Packed`]. A weight that trains can have a LoRA adapter.

mod adapter;
mod apply;
mod attach;
mod based_factors;
mod block_matrix;
mod block_names;
mod blocks;
mod cast;
mod declared;
mod dense;
mod error;
mod factors;
mod form;
mod live;
mod low_rank;
mod matrix_form;
mod moving;
mod order;
mod packed;
mod packed_factors;
mod packed_product;
mod part;
mod pivot;
mod precision;
mod recorded_product;
mod rounding;
mod slots;
mod storage;
mod stored;
mod unpacking;
mod work;

pub use adapter::FactorAdapter;
pub(crate) use adapter::{add_to_factors, attach_adapters};
pub(crate) use apply::{apply, apply_transposed, look_up, weight_shape};
pub use attach::FactorParams;
pub(crate) use attach::{
    NewParams, attach, attach_params, fill, params_of, read_matrices, skeleton,
};
pub use based_factors::BasedFactors;
pub use block_matrix::BlockMatrix;
pub use blocks::Blocks;
pub(crate) use blocks::parameters_in;
pub(crate) use cast::{cast_floats, encode_nearest};
pub(crate) use declared::{declared_form, rank_problem, update_entry};
pub use dense::Dense;
pub use error::FormError;
pub use factors::Factors;
pub use form::Form;
pub(crate) use form::{Lead, is_factor};
pub use live::{LiveMatrix, is_transposed_layout, matrices, packed_bytes, parameters};
pub(crate) use live::{packed_parameters, to_matrix};
pub use low_rank::{LowRank, Rest, attach_factors};
pub use matrix_form::Made;
pub(crate) use moving::{moved, product_gradients, product_of};
pub use order::{order_of_pivots, pivots_of_order};
pub use packed::Packed;
pub(crate) use packed::is_unpacked_factor;
pub use packed_factors::PackedFactors;
pub use part::{Part, PartKind, PartSpec, TensorSpec, encode_floats};
pub use pivot::Pivot;
pub use precision::Precision;
pub(crate) use slots::{Slot, slots};
pub use storage::Storage;
pub use stored::{Rounding, StoredError, StoredForm};
pub(crate) use unpacking::unpack_factors;
pub use work::Work;
