//! How texts begin for a model: with the token that begins texts (BOS), or without it.

use anyhow::Result;
use serde_json::{Value, json};
use welore_burn::data::TextTokenizer;
use welore_burn::model::{Bos, DecoderConfig};

use crate::args::BosArg;
use crate::failure::WrongInput;

/// What begins with the token that begins texts, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// `None` for nothing.
    pub bos: Option<Bos>,
    why: &'static str,
    /// Whether somebody asked for it, so that it is worth a word also if it is nothing.
    is_asked_for: bool,
}

impl Beginning {
    /// What `--bos` means for a model.
    ///
    /// # Errors
    ///
    /// [`WrongInput`] if the token is asked for and there is none.
    pub fn of(asked: BosArg, tokenizer: &TextTokenizer, config: &DecoderConfig) -> Result<Self> {
        let put = tokenizer.beginning()?;
        let own = match put[..] {
            [token] => Some(token),
            _ => None,
        };
        let token = || {
            own.or(config.bos_token_id).ok_or_else(|| {
                let message = "--bos: the model has no token that begins texts";
                WrongInput::with_hint(message, "give --bos off, or leave it out")
            })
        };
        let (bos, why) = match (asked, own) {
            (BosArg::Auto, Some(token)) => {
                (Some(Bos::Each(token)), "the tokenizer puts it before a text")
            }
            (BosArg::Auto, None) if put.is_empty() => {
                (None, "the tokenizer puts nothing before a text")
            }
            (BosArg::Auto, None) => (None, "the tokenizer puts several tokens before a text"),
            (BosArg::On, _) => (Some(Bos::Each(token()?)), "--bos on"),
            (BosArg::Once, _) => (Some(Bos::Once(token()?)), "--bos once"),
            (BosArg::Off, _) => (None, "--bos off"),
        };
        Ok(Self { bos, why, is_asked_for: asked != BosArg::Auto })
    }

    /// What a run began with. `asked` is `None` if it is resumed.
    pub fn of_run(bos: Option<Bos>, asked: Option<BosArg>) -> Self {
        let why = match asked {
            None => "the run began so",
            Some(BosArg::Auto) if bos.is_some() => "the tokenizer puts it before a text",
            Some(BosArg::Auto) => "the tokenizer does not put one before a text",
            Some(BosArg::On) => "--bos on",
            Some(BosArg::Once) => "--bos once",
            Some(BosArg::Off) => "--bos off",
        };
        Self { bos, why, is_asked_for: asked.is_some_and(|asked| asked != BosArg::Auto) }
    }

    /// What a conversation begins with, of which the template has written everything.
    ///
    /// # Errors
    ///
    /// Those of the tokenizer.
    pub fn of_prompt(
        prompt: &[u32],
        tokenizer: &TextTokenizer,
        config: &DecoderConfig,
    ) -> Result<Self> {
        let own = tokenizer.beginning()?.first().copied().or(config.bos_token_id);
        let first = prompt.first().copied().filter(|first| own == Some(*first));
        let why = "the chat template says so";
        Ok(Self { bos: first.map(Bos::Each), why, is_asked_for: false })
    }

    /// What windows begin with, as a part of a sentence: nothing if they are text alone, and nobody
    /// asked.
    pub fn clause(&self) -> String {
        match self.bos {
            Some(Bos::Each(token)) => format!(", each beginning with token {token}"),
            Some(Bos::Once(token)) => format!(", the first beginning with token {token}"),
            None if self.is_asked_for => ", without a token that begins texts".into(),
            None => String::new(),
        }
    }

    /// The same, and why.
    pub fn clause_with_reason(&self) -> String {
        match self.clause() {
            clause if clause.is_empty() => clause,
            clause => format!("{clause} ({})", self.why),
        }
    }

    /// A JSON object that also has what [`add_to`](Self::add_to) adds.
    pub fn with(&self, mut object: Value) -> Value {
        self.add_to(&mut object);
        object
    }

    /// Adds to a JSON object whether the token is there, its number, and why.
    pub fn add_to(&self, object: &mut Value) {
        object["bos"] = self.bos.is_some().into();
        object["bos_token"] = json!(self.bos.map(Bos::token));
        object["bos_why"] = self.why.into();
    }
}

/// The tokens of a prompt: as the tokenizer makes them, unless something else is asked for.
///
/// # Errors
///
/// [`WrongInput`] if the token that begins texts is asked for and there is none, and those of the
/// tokenizer.
pub fn prompt_tokens(
    prompt: &str,
    asked: BosArg,
    tokenizer: &TextTokenizer,
    config: &DecoderConfig,
) -> Result<(Vec<u32>, Beginning)> {
    let beginning = Beginning::of(asked, tokenizer, config)?;
    if asked == BosArg::Auto {
        return Ok((tokenizer.encode_prompt(prompt)?, beginning));
    }
    let mut tokens = tokenizer.encode(prompt)?;
    if let Some(token) = beginning.bos.map(Bos::token)
        && tokens.first() != Some(&token)
    {
        tokens.insert(0, token);
    }
    Ok((tokens, beginning))
}
