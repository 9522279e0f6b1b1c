//! How the gradients of a run develop. WeLore (arXiv 2407.11239) explains low-rank weights by it:
//! the gradients of some matrices settle early into a subspace that persists, and the weights that
//! they add up to become low-rank.
//!
//! The tracker writes records; the summary states when each matrix settled.

mod record;
mod summary;
mod tracker;

pub(crate) use record::places;
pub use record::{GRADIENTS_FILE, GradientRecord, read_gradients};
pub use summary::{
    DynamicsError, GradientDynamics, MatrixDynamics, SETTLED_SHARE, SETTLED_WINDOW, WeightRank,
};
pub(super) use tracker::Tracker;
