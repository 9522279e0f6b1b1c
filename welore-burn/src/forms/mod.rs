//! How a weight matrix is stored, in files and in modules.
//!
//! A [`Form`] provides everything that other code needs to know about it: tensors and types,
//! parameters and bytes, how a matrix is brought into it, and what a layer multiplies by. No code
//! outside this room depends on which form a matrix has. Each form is a file here and a line in the
//! tables of `form.rs`.
//!
//! In a module, a factored weight uses Burn's own parameter reparameterization, as [`LowRank`]. A
//! weight in any form can have a LoRA adapter.

mod adapter;
mod apply;
mod attach;
mod cast;
mod declared;
mod dense;
mod error;
mod factors;
mod form;
mod live;
mod low_rank;
mod order;
mod part;
mod pivot;
mod precision;
mod slots;
mod storage;
mod work;

pub use adapter::FactorAdapter;
pub(crate) use adapter::attach_adapters;
pub(crate) use apply::apply;
pub use attach::FactorParams;
pub(crate) use attach::{attach, fill, params_of, read_matrices, skeleton};
pub(crate) use cast::{cast_floats, encode_nearest};
pub(crate) use declared::{declared_form, rank_problem, update_entry};
pub use dense::Dense;
pub use error::FormError;
pub use factors::Factors;
pub(crate) use form::is_factor;
pub use form::{Form, Made};
pub(crate) use live::to_matrix;
pub use live::{LiveMatrix, is_transposed_layout, matrices};
pub use low_rank::{LowRank, Rest, attach_factors};
pub use order::{order_of_pivots, pivots_of_order};
pub use part::{Part, PartKind, PartSpec, TensorSpec, encode_floats};
pub use pivot::Pivot;
pub use precision::Precision;
pub(crate) use slots::{Slot, slots};
pub use storage::Storage;
pub use work::Work;
