//! Conversations as text: chat templates, rendered as transformers does it, and which part of a text a model
//! learns to write. Knows neither tokens nor models.

mod error;
mod json;
mod lesson;
mod message;
mod render;
mod special;
mod tags;
mod template;
mod time;

pub use error::ChatError;
pub use lesson::Lesson;
pub use message::{Conversation, Message};
pub(super) use message::{conversations, is_conversations};
pub use template::{ChatOptions, ChatTemplate, TemplateValue};
