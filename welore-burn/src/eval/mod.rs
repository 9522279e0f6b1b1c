//! How good a model is: perplexity on a text, accuracy on a task. Uses no autodiff and writes
//! nothing.

mod accuracy;
mod perplexity;

pub use accuracy::{Accuracy, accuracy};
pub use perplexity::{EvalError, Perplexity, PerplexityOptions, check_text, perplexity};
