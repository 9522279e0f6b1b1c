//! One step of the factors of a compressed model towards what the dense model predicts.
//!
//! Matrices are factored one by one, each for its own error. What they lose together is a gradient: that
//! of the KL divergence from the dense model, on the text of a calibration. [`distill`] takes one step
//! down it, preconditioned by the second moments that the calibration has ([`natural_step`]), whose
//! length is searched for on windows of the text that the gradient does not see. If no length lowers the
//! divergence there, as the numbers are stored, nothing changes.
//!
//! [`natural_step`]: crate::linalg::natural_step

mod error;
mod gradients;
mod step;

pub use error::DistillError;
pub use step::{DistillOptions, Distilled, Tried, distill};
