use std::ops::Range;

use super::error::ChatError;
use super::message::Conversation;
use super::template::{ChatOptions, ChatTemplate};

/// A text to learn from, of which only what the assistant wrote is learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// The text.
    pub text: String,
    /// The bytes of it that are learnt, in order.
    pub learnt: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// What a model learns from a conversation: one text with all of it. A template that writes earlier answers
    /// in another way than the last one, such as Qwen3's, which leaves their thoughts out, gives a text for each
    /// answer, with all that comes before it.
    ///
    /// What the assistant writes is what the template has between `{% generation %}` and `{% endgeneration %}`.
    /// A template without these is rendered up to each answer and with it: what is added was written by the
    /// assistant, with the token that ends it.
    ///
    /// # Errors
    ///
    /// [`ChatError`]; [`ChatError::Rewritten`] if an answer is not added to the prompt for it.
    pub fn lessons(
        &self,
        conversation: &Conversation,
        options: &ChatOptions,
    ) -> Result<Vec<Lesson>, ChatError> {
        if self.marks_answers() {
            let (text, learnt) = self.marked(conversation, options)?;
            return Ok(vec![Lesson { text, learnt }]);
        }
        let whole = self.text(conversation, options)?;
        let answers = self.answers(conversation, &whole, options)?;
        if answers.iter().all(|answer| whole.starts_with(&answer.text)) {
            let learnt = answers.into_iter().flat_map(|answer| answer.learnt).collect();
            return Ok(vec![Lesson { text: whole, learnt }]);
        }
        Ok(answers)
    }

    /// The text of each answer, with all that comes before it; `whole` is that of the last message.
    fn answers(
        &self,
        conversation: &Conversation,
        whole: &str,
        options: &ChatOptions,
    ) -> Result<Vec<Lesson>, ChatError> {
        let Conversation { messages, tools } = conversation;
        let tools = tools.as_ref();
        let mut answers = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            if !message.is_answer() {
                continue;
            }
            let before = self.render(&messages[..index], tools, true, options)?;
            let text = match index + 1 == messages.len() {
                true => whole.to_string(),
                false => self.render(&messages[..=index], tools, false, options)?,
            };
            if !text.starts_with(&before) {
                let path = self.path().into();
                return Err(ChatError::Rewritten { path, message: index + 1 });
            }
            let added = before.len()..text.len();
            answers.push(Lesson { text, learnt: vec![added] });
        }
        Ok(answers)
    }
}
