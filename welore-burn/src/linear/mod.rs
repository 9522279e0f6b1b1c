//! [`LowRankLinear`], the drop-in for Burn's `nn::Linear` that can be factored.
//!
//! This room knows no files and no model family. A layer starts dense; when the
//! [`surgery`](crate::surgery) room (or [`attach_factors`]) gives its weight a
//! [`LowRank`] reparameterization, the same layer computes `x · down · up + bias`.

mod factors;
mod layer;
mod tap;

pub use factors::{
    FactorParams, LowRank, Rest, attach_factors, factored_paths, is_transposed_layout,
    order_of_pivots, pivots_of_order,
};
pub(crate) use factors::{as_matrix, to_matrix};
pub(crate) use layer::empty_param;
pub use layer::{LowRankLinear, LowRankLinearConfig};
pub use tap::{Tap, tapped};
