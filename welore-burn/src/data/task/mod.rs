//! Tasks with right answers: the downstream tasks of the WeLore paper, and files of your own. Works
//! on files and texts, without a tokenizer or a model.

mod answer;
mod choices;
mod dataset;
mod error;
mod formats;
mod json;
mod kind;

pub use choices::{ChoiceQuestion, ChoiceTask};
pub use dataset::{Task, TaskExample};
pub use error::TaskError;
pub use kind::TaskKind;
