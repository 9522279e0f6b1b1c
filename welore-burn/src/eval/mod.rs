//! How good a model is: perplexity on a text, accuracy on a task. No autodiff, nothing written.

mod accuracy;
mod perplexity;

pub use accuracy::{Accuracy, accuracy};
pub use perplexity::{EvalError, Perplexity, PerplexityOptions, check_text, perplexity};
