//! How a weight matrix is stored, in files and in modules.
//!
//! A [`Form`] provides everything that other code needs to know about it: tensors and types,
//! parameters and bytes, how a matrix is brought into it, and what a layer multiplies by. No code
//! outside this room depends on which form a matrix has. Each form is a file here and a line in the
//! tables of `form.rs`.
//!
//! In a module, a factored weight uses Burn's own parameter reparameterization, as [`LowRank`].

mod apply;
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
mod storage;

pub(crate) use apply::apply;
pub(crate) use declared::{declared_form, rank_problem, update_entry};
pub use dense::Dense;
pub use error::FormError;
pub use factors::Factors;
pub(crate) use form::is_factor;
pub use form::{Form, Made};
pub use live::{FactorParams, LiveMatrix, is_transposed_layout, matrices};
pub(crate) use live::{Slot, attach, fill, params_of, read_matrices, skeleton, slots, to_matrix};
pub use low_rank::{LowRank, Rest, attach_factors};
pub use order::{order_of_pivots, pivots_of_order};
pub use part::{Part, PartKind, PartSpec, TensorSpec, encode_floats};
pub use pivot::Pivot;
pub use storage::Storage;
