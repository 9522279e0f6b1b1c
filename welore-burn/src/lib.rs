//! x
#![recursion_limit = "256"]
pub mod checkpoint;
pub mod linalg;
pub mod linear;
pub mod plan;
pub mod progress;
pub mod spectrum;
pub mod surgery;
