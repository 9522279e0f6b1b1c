//! Text files to tokens. Knows tokenizers, no model.

mod text;

pub use text::{DataError, TextTokenizer, read_text};
