//! Arguments of conversations.

use std::path::{Path, PathBuf};

use clap::Args;
use welore_burn::data::TemplateValue;

use super::compute::ComputeArgs;
use super::general::whole;

/// How tokens are chosen.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// 0 takes the most likely token; larger values make unlikely tokens likelier
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Sample from this many of the most likely tokens
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Sample from the most likely tokens that together have this probability
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Random seed for sampling
    #[arg(
        long,
        value_name = "N",
        value_parser = whole::<u64>,
        allow_negative_numbers = true,
        default_value_t = 0
    )]
    pub seed: u64,
}

/// What makes text of conversations.
#[derive(Args, Debug)]
pub struct TemplateArgs {
    /// Chat template in place of the model's own: a file in Jinja, as transformers reads it
    #[arg(id = "template", long = "template", value_name = "FILE", help_heading = "Chat")]
    file: Option<PathBuf>,
}

impl TemplateArgs {
    /// The file of the template, if it is not the model's own.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// How a conversation begins, and how it becomes text.
#[derive(Args, Debug)]
#[command(next_help_heading = "Chat")]
pub struct ConversationArgs {
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Messages that come first: a JSON file with an array of them, or with an object with `messages`
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// What makes text of it.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// A variable for the chat template, such as enable_thinking=false; can be repeated
    #[arg(long, value_name = "NAME=JSON", value_parser = template_option)]
    pub template_option: Vec<TemplateOption>,
}

/// A variable for a chat template.
#[derive(Debug, Clone)]
pub struct TemplateOption {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: TemplateValue,
}

fn template_option(text: &str) -> Result<TemplateOption, String> {
    let (name, value) = text.split_once('=').ok_or("it has to be NAME=JSON")?;
    if name.is_empty() {
        return Err("it has no name".into());
    }
    let value = TemplateValue::from_json(value)
        .map_err(|reason| format!("not JSON ({reason}); a text needs quotes: {name}='\"TEXT\"'"))?;
    Ok(TemplateOption { name: name.into(), value })
}

/// Arguments of `chat`.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// Model directory (dense or compressed), .gguf file, or org/name(@revision) on the Hub
    pub model: PathBuf,
    /// Maximum number of tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 512, help_heading = "Sampling")]
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// How the conversation begins, and how it becomes text.
    #[command(flatten)]
    pub conversation: ConversationArgs,
    /// Where numbers are computed.
    #[command(flatten)]
    pub compute: ComputeArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_templates_are_json() {
        let named = |text| template_option(text).map(|option| option.name);
        assert_eq!(named("enable_thinking=false").as_deref(), Ok("enable_thinking"));
        assert_eq!(named("date=\"a=b\"").as_deref(), Ok("date"));
        assert!(named("date=today").unwrap_err().contains("quotes"));
        assert!(named("thinking").unwrap_err().contains("NAME=JSON"));
        assert!(named("=1").unwrap_err().contains("no name"));
    }
}
