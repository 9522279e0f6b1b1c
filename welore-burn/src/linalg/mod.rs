//! Matrix decompositions: a [`Matrix`] in, its factors out.
//!
//! The only room that uses faer. It knows neither Burn nor files. Everything is f64: checkpoints
//! are f32 or narrower, so the decomposition adds no error that a stored factor could show.

mod band;
mod channels;
mod cholesky;
mod cost;
mod cross;
mod eigen;
mod elimination;
mod feedback;
mod leading;
mod loss;
mod matrix;
mod moments;
mod natural;
mod pivot;
mod rounded;
mod rows;
mod shrink;
mod subspace;
mod svd;
mod weighted;

pub use channels::{ChannelOrder, refit_channels};
pub(crate) use cholesky::Cholesky;
pub(crate) use cost::{Cost, DECOMPOSITION};
pub use cross::CrossMoment;
pub use feedback::{FedBlock, Feedback};
pub use loss::loss_of_error;
pub(crate) use loss::shrunk_loss_of_error;
pub use matrix::{LinalgError, Matrix, transpose};
pub use moments::{Root, SecondMoment, packed_len};
pub use natural::natural_step;
pub use pivot::{PivotFactors, pivot_factors, pivot_factors_within};
pub(crate) use rows::{Rows, Written, multiply_into, multiply_rows};
pub use shrink::{Shrink, Shrinkage};
pub use subspace::{LeadingSubspace, leading_left_vectors, leading_subspace, subspace_similarity};
pub use svd::{BalancedFactors, balanced_factors, singular_values};
pub use weighted::Weighting;
