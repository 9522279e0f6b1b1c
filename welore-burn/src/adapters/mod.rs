//! LoRA adapters (arXiv 2106.09685) as the PEFT library stores them.
//!
//! A [`LoraAdapter`] has a [`LoraMatrix`] for each matrix that it changes, in f32 and by the name that
//! the matrix has in a Hugging Face directory. [`open`](LoraAdapter::open) reads PEFT's directory,
//! [`save`](LoraAdapter::save) writes one, and [`apply`](LoraAdapter::apply) adds the adapter to a
//! module. What is not understood is refused: an adapter that is applied otherwise than it was trained
//! is worse than none.

mod apply;
mod chosen;
mod config;
mod error;
mod lora;
mod pattern;
mod reader;
mod writer;

pub use error::{AdapterError, LoraProblem, Refusal};
pub use lora::{LoraAdapter, LoraMatrix};
pub use reader::is_adapter;
