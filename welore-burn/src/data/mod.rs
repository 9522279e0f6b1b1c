//! Turns text, conversations and task files into tokens, and tokens into rows. Uses tokenizers, but no model.

mod chat;
mod documents;
mod marks;
mod rows;
mod task;
mod text;
mod token_file;
mod tokenizer_guard;

pub use chat::{
    ChatError, ChatOptions, ChatTemplate, Conversation, Lesson, Message, TemplateValue,
};
pub use documents::{Texts, join_documents, read_documents, read_texts};
pub use marks::Marks;
pub use rows::{LessonsCut, TokenRow, TokenRows};
pub use task::{ChoiceQuestion, ChoiceTask, Task, TaskError, TaskExample, TaskKind};
pub use text::{DataError, TextTokenizer, read_text};
pub use token_file::{read_rows, write_rows};
pub use tokenizer_guard::is_guarded;
pub(crate) use tokenizer_guard::load as load_tokenizer;
