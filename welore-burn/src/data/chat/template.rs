use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use minijinja::Value;
use serde_json::{Map, Value as Json};

use super::error::ChatError;
use super::message::{Conversation, Message};
use super::render::Program;
use super::special::{object_of, special_tokens};
use super::tags::between_marks;
use super::time::strftime_fixed;
use crate::artifact::in_words;
use crate::files::{LARGEST_CONFIG, check_fetched, read_existing, read_input};

/// Names of variables that the conversation decides.
const DECIDED: [&str; 2] = ["messages", "add_generation_prompt"];

/// A value that a template is given, such as `enable_thinking`.
#[derive(Debug, Clone)]
pub struct TemplateValue(Value);

impl TemplateValue {
    /// Reads a value in JSON.
    ///
    /// # Errors
    ///
    /// What is wrong, for a message.
    pub fn from_json(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map(Self).map_err(|error| in_words(&error))
    }
}

/// How conversations become text.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// More variables of the template, such as `enable_thinking`; they stand above special tokens.
    pub variables: BTreeMap<String, TemplateValue>,
    /// Whether `strftime_now` gives 26 July 2024 in place of today's date, so that the text is the same on every day.
    pub fixed_date: bool,
}

/// A model's chat template: Jinja, as transformers renders it.
///
/// The template may come from anyone: it reads no file, and has limits for its steps, its text and its depth.
/// Beside the messages it is given `add_generation_prompt`, `tools`, `documents` (none), special tokens by their
/// names, and the variables of [`ChatOptions`].
///
/// A message may contain the text of a special token, and tokenizers then see that token, as in transformers.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    path: PathBuf,
    program: Arc<Program>,
    special: Vec<(String, Value)>,
}

impl ChatTemplate {
    /// The template of a model directory: `chat_template.jinja`, or else `chat_template` in
    /// `tokenizer_config.json`, which may be a list with one named `default`, or in `chat_template.json`.
    ///
    /// # Errors
    ///
    /// [`ChatError`]; [`ChatError::Missing`] if there is none.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, ChatError> {
        let dir = dir.as_ref();
        let settings_path = dir.join("tokenizer_config.json");
        let settings = object_of(&settings_path)?;
        let special = special_tokens(&settings, dir)?;
        let path = dir.join("chat_template.jinja");
        if let Some(content) = read_existing(&path, LARGEST_CONFIG)? {
            return Self::of_file(path, content, special);
        }
        if let Some(source) = stated(&settings, &settings_path)? {
            return Self::compile(settings_path, source, special);
        }
        let path = dir.join("chat_template.json");
        let source = stated(&object_of(&path)?, &path)?.map(String::from);
        match source {
            Some(source) => Self::compile(path, &source, special),
            None => Err(ChatError::Missing { dir: dir.into() }),
        }
    }

    /// The template in a file, with the special tokens of a model directory.
    ///
    /// # Errors
    ///
    /// [`ChatError`].
    pub fn open_file(file: impl AsRef<Path>, dir: impl AsRef<Path>) -> Result<Self, ChatError> {
        let (file, dir) = (file.as_ref(), dir.as_ref());
        let settings = object_of(&dir.join("tokenizer_config.json"))?;
        let special = special_tokens(&settings, dir)?;
        Self::of_file(file.into(), read_input(file, LARGEST_CONFIG)?, special)
    }

    fn of_file(
        path: PathBuf,
        content: Vec<u8>,
        special: Vec<(String, Value)>,
    ) -> Result<Self, ChatError> {
        check_fetched(&path, &content)?;
        match String::from_utf8(content) {
            Ok(source) => Self::compile(path, &source, special),
            Err(_) => Err(ChatError::Malformed { path, reason: "not UTF-8 text".into() }),
        }
    }

    fn compile(
        path: PathBuf,
        source: &str,
        special: Vec<(String, Value)>,
    ) -> Result<Self, ChatError> {
        let program = Arc::new(Program::compile(&path, source)?);
        Ok(Self { path, program, special })
    }

    /// The file that it is in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text of a special token that it knows by a name such as `eos_token`.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special.iter().find(|(known, _)| known == name)?.1.as_str()
    }

    /// Whether it says itself what the assistant writes, by `{% generation %}`.
    pub fn marks_answers(&self) -> bool {
        self.program.has_marks
    }

    /// The text of a conversation so far, after which the assistant's next message begins.
    ///
    /// # Errors
    ///
    /// [`ChatError`].
    pub fn prompt(
        &self,
        conversation: &Conversation,
        options: &ChatOptions,
    ) -> Result<String, ChatError> {
        let Conversation { messages, tools } = conversation;
        self.render(messages, tools.as_ref(), true, options)
    }

    /// The text of a whole conversation.
    ///
    /// # Errors
    ///
    /// [`ChatError`].
    pub fn text(
        &self,
        conversation: &Conversation,
        options: &ChatOptions,
    ) -> Result<String, ChatError> {
        let Conversation { messages, tools } = conversation;
        self.render(messages, tools.as_ref(), false, options)
    }

    pub(super) fn render(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        add_generation_prompt: bool,
        options: &ChatOptions,
    ) -> Result<String, ChatError> {
        let variables = self.variables(messages, tools, add_generation_prompt, options)?;
        self.program.run(&self.path, variables, false)
    }

    /// The text of a whole conversation, and the bytes of it that the assistant writes according to the template.
    pub(super) fn marked(
        &self,
        conversation: &Conversation,
        options: &ChatOptions,
    ) -> Result<(String, Vec<Range<usize>>), ChatError> {
        let text = self.text(conversation, options)?;
        let Conversation { messages, tools } = conversation;
        let variables = self.variables(messages, tools.as_ref(), false, options)?;
        let marked = between_marks(&self.program.run(&self.path, variables, true)?);
        match marked {
            Some((found, spans)) if found == text => Ok((text, spans)),
            // It changes its own text, or the messages have marks.
            _ => Err(ChatError::Failed {
                path: self.path.clone(),
                reason: "what it says that the assistant writes cannot be told from the rest"
                    .into(),
            }),
        }
    }

    fn variables(
        &self,
        messages: &[Message],
        tools: Option<&Value>,
        add_generation_prompt: bool,
        options: &ChatOptions,
    ) -> Result<Value, ChatError> {
        if let Some(name) = DECIDED.iter().find(|name| options.variables.contains_key(**name)) {
            return Err(ChatError::Variable { name: (*name).into() });
        }
        let none = || Value::from(());
        let messages: Value = messages.iter().map(|message| message.fields().clone()).collect();
        let given = [
            ("messages", messages),
            ("add_generation_prompt", add_generation_prompt.into()),
            ("tools", tools.cloned().unwrap_or_else(none)),
            ("documents", none()),
        ];
        let given = given.map(|(name, value)| (name.to_string(), value));
        // A variable takes the place of the function that every template has.
        let date = ("strftime_now".to_string(), Value::from_function(strftime_fixed));
        let date = options.fixed_date.then_some(date);
        let more = options.variables.iter().map(|(name, value)| (name.clone(), value.0.clone()));
        Ok(Value::from_pairs(self.special.iter().cloned().chain(date).chain(given).chain(more)))
    }
}

/// The template that a file of settings states, if it does.
fn stated<'s>(settings: &'s Map<String, Json>, path: &Path) -> Result<Option<&'s str>, ChatError> {
    let named = |all: &'s [Json]| {
        let default = all.iter().find(|template| template["name"] == "default");
        default.and_then(|template| template["template"].as_str())
    };
    let malformed =
        |reason: &str| ChatError::Malformed { path: path.into(), reason: reason.into() };
    match settings.get("chat_template") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(source)) => Ok(Some(source)),
        Some(Json::Array(all)) => match named(all) {
            Some(source) => Ok(Some(source)),
            None => Err(malformed("none of its chat templates has the name `default`")),
        },
        Some(_) => Err(malformed("its chat_template is no text")),
    }
}
