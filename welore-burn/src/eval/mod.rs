//! How good a model is: perplexity on a text. No autodiff, nothing written.

mod perplexity;

pub use perplexity::{EvalError, Perplexity, PerplexityOptions, perplexity};
