//! Text files to tokens, tokens to blocks. Knows tokenizers, no model.

mod blocks;
mod text;

pub use blocks::TokenBlocks;
pub use text::{DataError, TextTokenizer, read_text};
