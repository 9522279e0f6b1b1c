//! [`LowRankLinear`], the drop-in for Burn's `nn::Linear` that can be factored.
//!
//! This room knows no files and no model family. A layer starts dense; when the
//! [`surgery`](crate::surgery) room (or [`attach_factors`]) gives its weight a
//! [`LowRank`] reparameterization, the same layer computes `x · down · up + bias`.

mod factors;
mod layer;

pub(crate) use factors::as_matrix;
pub use factors::{
    FactorParams, LowRank, Rest, attach_factors, factored_paths, is_transposed_layout,
};
pub(crate) use layer::empty_param;
pub use layer::{LowRankLinear, LowRankLinearConfig};
