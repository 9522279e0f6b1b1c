//! Tasks with right answers: the downstream tasks of the WeLore paper, and files of your own.
//! Knows files and texts, no tokenizer, no model.

mod answer;
mod dataset;
mod error;
mod formats;
mod json;
mod kind;

pub use dataset::{Task, TaskExample};
pub use error::TaskError;
pub use kind::TaskKind;
