//! Factors that make up for each other: fitted block after block of a language model to what the
//! dense model computes on the text of a calibration.
//!
//! [`surgery`](crate::surgery) factors every matrix as if all others stayed as they are. Here
//! each matrix is factored for the inputs that it will see once all before it are factored, and
//! the factors of a block can be refined so that the block answers as the dense one does.

mod error;
mod refine;
mod sequential;

pub use error::FitError;
pub use refine::RefineOptions;
pub use sequential::{FitOptions, fit};
