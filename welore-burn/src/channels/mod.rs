//! MLPs with fewer channels: the result is dense, smaller, and as fast as it is small.
//!
//! A channel of an MLP is a row of its gate and up projections and a column of its down projection.
//! [`measure_channels`] finds for each layer in which order channels are worth leaving out, and what
//! that costs in nats per token ([`ChannelOrder`](crate::linalg::ChannelOrder)). A [`ChannelPlan`]
//! chooses how many each layer keeps, and [`write_channels`] writes the model: rows and columns of
//! the channels that are kept, and a down projection that is fitted again to them.
//!
//! With one width for all layers, `config.json` states it, and transformers loads the model without
//! any code of ours. Widths that differ between layers lose less for the same size, but only this
//! library and llama.cpp (as `deci`) read them.
//!
//! A [`JointPlan`] shares one budget of parameters between channels and ranks: an MLP gets fewer
//! channels or its matrices get lower ranks, whichever loses less, and all other matrices get ranks.

mod curves;
mod error;
mod joint;
mod joint_choice;
mod mlp;
mod plan;
mod widths;
mod write;

pub use curves::{ChannelCurve, CurveOptions, measure_channels};
pub use error::ChannelsError;
pub use joint::JointPlan;
pub use mlp::{Mlp, mlps};
pub use plan::{CHANNELS_FILE, ChannelPlan, ChannelPlanFileError, KeptChannels};
pub use widths::{ChannelGoal, ChannelPlanError, Widths};
pub use write::{ChannelReport, write_channels};
