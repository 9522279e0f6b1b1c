//! Matrix decompositions: slices in, factors out.
//!
//! The only room that names faer. It knows neither Burn nor files. Everything is f64:
//! checkpoints are f32 or narrower, so the decomposition adds no error of its own that a
//! stored factor could show.

mod band;
mod subspace;
mod svd;

pub use subspace::leading_left_vectors;
pub use svd::{BalancedFactors, LinalgError, Matrix, balanced_factors, singular_values};
