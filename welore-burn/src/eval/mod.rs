//! How good a model is: perplexity on a text, accuracy on a task, by what it generates or by the
//! likelihood of choices, and how far its predictions are from those of the dense model that it was
//! made from. Uses no autodiff.
//!
//! [`divergence()`] needs both models in memory; [`save_logits`] keeps what the dense one says in a
//! file, and [`SavedLogits`] compares others with that.

mod accuracy;
mod choices;
mod divergence;
mod estimate;
mod perplexity;
mod saved;
mod windows;

pub use accuracy::{Accuracy, accuracy};
pub use choices::{
    ChoiceAnswer, ChoiceError, ChoiceScores, ChoiceTokens, check_choices, score_choices,
};
pub use divergence::{Divergence, divergence};
pub use estimate::{Estimate, Spread};
pub use perplexity::{Perplexity, check_rows_fit, perplexity, perplexity_of_rows};
pub use saved::{LogitsError, LogitsSource, SavedLogits, save_logits, saved_bytes};
pub use windows::{EvalError, PerplexityOptions, check_text};
