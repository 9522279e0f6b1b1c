//! Text and task files to tokens, tokens to rows. Knows tokenizers, no model.

mod documents;
mod rows;
mod task;
mod text;
mod token_file;

pub use documents::{join_documents, read_documents};
pub use rows::{TokenRow, TokenRows};
pub use task::{Task, TaskError, TaskExample, TaskKind};
pub use text::{DataError, TextTokenizer, read_text};
pub use token_file::{read_rows, write_rows};
