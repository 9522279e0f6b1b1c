//! [`LowRankLinear`], the drop-in for Burn's `nn::Linear` that can be factored.
//!
//! A layer starts dense. Once its weight has another [form](crate::forms), the same layer
//! computes with that: `x · down · up + bias` for two factors.

mod layer;

pub use layer::{LowRankLinear, LowRankLinearConfig};
