//! What two models of one shape differ by, as matrices of low rank.
//!
//! [`Difference`] pairs the matrices of two checkpoints, whatever their forms, and computes
//! `to - from` in f64 from what is stored. [`Difference::measure`] gives the singular values of each
//! difference in a norm, [`RankGoal`] chooses ranks by them, and [`Difference::approximate`] makes the
//! factors, which are best at their rank in that norm: the truncated decomposition, with the roots
//! divided out. So they are the adapter that brings one model closest to the other. Of a tuned model
//! and its base this extracts what was learned; of a full-precision model and a quantized one it is
//! what repairs the quantized one best. [`adapter_of`] makes the adapter of them. [`dense_model`] is a model with such factors added, to measure
//! what they do.

mod approximate;
mod contents;
mod dense;
mod error;
mod measure;
mod pairs;
mod ranks;

pub use approximate::{Approximation, adapter_of};
pub use contents::Contents;
pub use dense::dense_model;
pub use error::DifferenceError;
pub use measure::{Differences, MatrixDifference, Measuring, OtherDifference, Side};
pub use pairs::Difference;
pub use ranks::RankGoal;
