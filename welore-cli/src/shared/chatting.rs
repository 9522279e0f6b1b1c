//! Conversations with a model.

use std::path::Path;

use anyhow::Result;
use welore_burn::data::{
    ChatError, ChatOptions, ChatTemplate, Conversation, Message, TextTokenizer,
};
use welore_burn::files::{LARGEST_CONFIG, read_input};
use welore_burn::model::{DecoderConfig, Sampler, SamplerError};

use crate::args::{ConversationArgs, SamplingArgs};
use crate::failure::WrongInput;

/// A conversation so far, and how it becomes text.
#[derive(Debug)]
pub struct Chat {
    template: ChatTemplate,
    options: ChatOptions,
    tokenizer: TextTokenizer,
    /// How many messages it begins with, which are never forgotten.
    first: usize,
    conversation: Conversation,
}

/// What the model continues.
#[derive(Debug)]
pub struct ChatPrompt {
    /// As text.
    pub text: String,
    /// As tokens.
    pub tokens: Vec<u32>,
}

impl Chat {
    /// A conversation as the arguments begin it, with a model directory.
    pub fn open(args: &ConversationArgs, dir: &Path, tokenizer: &TextTokenizer) -> Result<Self> {
        let conversation = beginning(args)?;
        let template = match args.template.file() {
            Some(file) => ChatTemplate::open_file(file, dir)?,
            None => template_of(dir, "give one with --template FILE")?,
        };
        let variables = args.template_option.iter();
        let variables = variables.map(|option| (option.name.clone(), option.value.clone()));
        Ok(Self {
            template,
            options: ChatOptions { variables: variables.collect(), fixed_date: false },
            tokenizer: tokenizer.clone(),
            first: conversation.messages.len(),
            conversation,
        })
    }

    /// Adds a message.
    pub fn add(&mut self, role: &str, content: &str) {
        self.conversation.messages.push(Message::new(role, content));
    }

    /// Takes the last message back.
    pub fn take_back(&mut self) {
        self.conversation.messages.pop();
    }

    /// Forgets all messages but those that it began with.
    pub fn clear(&mut self) {
        self.conversation.messages.truncate(self.first);
    }

    /// What the model continues to answer.
    pub fn prompt(&self) -> Result<ChatPrompt> {
        let text = self.template.prompt(&self.conversation, &self.options)?;
        // The template has written all special tokens.
        let tokens = self.tokenizer.encode(&text)?;
        Ok(ChatPrompt { text, tokens })
    }

    /// The tokens that end an answer: those that end the model's texts, and the one that its tokenizer names, which
    /// chat models often state only there.
    pub fn stop(&self, config: &DecoderConfig) -> Result<Vec<u32>> {
        let mut stop = config.eos_token_ids.clone();
        if let Some(text) = self.template.special_token("eos_token")
            && let [end] = self.tokenizer.encode(text)?[..]
            && !stop.contains(&end)
        {
            stop.push(end);
        }
        Ok(stop)
    }
}

/// The chat template of a model directory; `hint` says what helps if there is none.
pub fn template_of(dir: &Path, hint: &str) -> Result<ChatTemplate> {
    match ChatTemplate::open(dir) {
        Err(error @ ChatError::Missing { .. }) => {
            Err(WrongInput::with_hint(error.to_string(), hint).into())
        }
        template => Ok(template?),
    }
}

/// How tokens are chosen.
pub fn sampler_of(args: &SamplingArgs) -> Result<Sampler, SamplerError> {
    Sampler::new(args.temperature, args.top_k, args.top_p, args.seed)
}

fn beginning(args: &ConversationArgs) -> Result<Conversation> {
    let mut conversation = match &args.history {
        Some(path) => history(path)?,
        None => Conversation::default(),
    };
    let Some(system) = &args.system else { return Ok(conversation) };
    if let (Some(path), Some(first)) = (&args.history, conversation.messages.first())
        && first.role() == "system"
    {
        let message = format!("--system: {} begins with a system message", path.display());
        return Err(WrongInput::with_hint(message, "leave one of them out").into());
    }
    conversation.messages.insert(0, Message::new("system", system));
    Ok(conversation)
}

fn history(path: &Path) -> Result<Conversation> {
    let content = read_input(path, LARGEST_CONFIG)?;
    let wrong = |reason: String| WrongInput::new(format!("{}: {reason}", path.display()));
    let text = String::from_utf8(content).map_err(|_| wrong("not UTF-8 text".into()))?;
    Ok(Conversation::from_json(&text).map_err(wrong)?)
}
