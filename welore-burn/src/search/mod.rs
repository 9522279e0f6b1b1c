//! Ranks searched for on the model itself: plans are carried out in memory and measured by how far
//! the predictions are from the dense model's.
//!
//! A policy says what is varied ([`SearchSpace`](crate::plan::SearchSpace)), and every point of that
//! space gives a plan that meets the target. [`search`](fn@search) tries one after the other, begins
//! with the plan without any weights, and returns the best. What is tried next depends on the seed
//! and on what was measured, so a search that was stopped continues from its journal as if it had
//! not been.
//!
//! A matrix is decomposed once, at the highest rank that it may have. Its best factors at a lower
//! rank are the first components of these.

mod bayes;
mod bench;
mod components;
mod error;
mod evolution;
mod journal;
mod run;
mod space;

pub use error::SearchError;
pub use journal::check_journal;
pub use run::{Evaluation, SearchJob, SearchOptions, SearchOutcome, search};
