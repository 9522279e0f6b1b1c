//! x
#![recursion_limit = "256"]
pub mod checkpoint;
pub mod data;
pub mod eval;
pub mod linalg;
pub mod linear;
pub mod llama;
pub mod plan;
pub mod progress;
pub mod spectrum;
pub mod surgery;
