//! `chat`: talk with a model. Each line of standard input is a message.

use std::io::{BufRead, IsTerminal, Read};
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::{Context, Error, Result};
use welore_burn::data::{ChatError, TextTokenizer};
use welore_burn::model::{
    Decoder, GenerateError, GenerateOptions, Generator, Sampler, check_prompt, most_new_tokens,
};
use welore_burn::progress::Interrupted;

use crate::args::{ChatArgs, Typed};
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::shared::chatting::{Chat, ChatPrompt, sampler_of};
use crate::shared::effects::of_sampling;
use crate::shared::opening::open_known;
use crate::terminal::{Bar, answer, forgive_interrupt, must_stop, wait_for_user};
use crate::{format, models, output};

/// Bytes of the longest message.
const LONGEST: u64 = 16 << 20;

/// What ends a conversation, or begins a new one.
const EXIT: &str = "/exit";
const CLEAR: &str = "/clear";

/// Runs the command.
pub fn run(args: ChatArgs, typed: &Typed) -> Result<()> {
    typed.check(of_sampling(&args.sampling))?;
    let sampler = sampler_of(&args.sampling)?;
    let compute = Compute::choose(args.compute.choice())?;
    let dir = models::directory_to_run(&args.model, &compute)?;
    let opened = open_known(&dir, &compute.device)?;
    let tokenizer = TextTokenizer::open(&dir)?;
    let mut chat = Chat::open(&args.conversation, &dir, &tokenizer)?;
    // Checked here because loading weights may take long.
    chat.add("user", "?");
    prompt_of(&chat, opened.skeleton())?;
    chat.clear();
    let loaded = opened.load(compute.dtype, |_| false, &mut Bar::default())?;
    let options =
        GenerateOptions { max_new_tokens: args.max_new_tokens, stop: chat.stop(&loaded.config)? };
    let is_typed = std::io::stdin().is_terminal();
    if is_typed {
        note!("{CLEAR} begins a new conversation, {EXIT} or Ctrl-D ends it; Ctrl-C ends an answer");
    }
    let model = &loaded.model;
    let generator = Generator::new(model);
    let mut talk = Talk { model, generator, sampler, options, chat, tokenizer, is_typed };
    while let Some(line) = next_line(is_typed)? {
        match line.trim() {
            EXIT => break,
            CLEAR => talk.chat.clear(),
            "" => {}
            message => talk.reply(message)?,
        }
    }
    Ok(())
}

/// The next line of standard input; `None` at its end.
fn next_line(is_typed: bool) -> Result<Option<String>> {
    let shows_marker = is_typed && std::io::stdout().is_terminal();
    if shows_marker {
        output::print_piece("> ")?;
    }
    let mut line = Vec::new();
    let mut input = std::io::stdin().lock().take(LONGEST + 1);
    wait_for_user(|| input.read_until(b'\n', &mut line)).context("standard input")?;
    if line.is_empty() {
        if shows_marker {
            output::print_piece("\n")?;
        }
        return Ok(None);
    }
    if line.len() as u64 > LONGEST {
        let most = LONGEST >> 20;
        return Err(WrongInput::new(format!("a message has more than {most} MB")).into());
    }
    match String::from_utf8(line) {
        Ok(line) => Ok(Some(line)),
        Err(_) => Err(WrongInput::new("standard input is not UTF-8 text").into()),
    }
}

/// What the model continues, if it can.
fn prompt_of(chat: &Chat, model: &Decoder) -> Result<ChatPrompt> {
    let prompt = chat.prompt()?;
    match check_prompt(model, &prompt.tokens) {
        Err(GenerateError::TooLong { tokens, context }) => {
            let message = format!(
                "the conversation has {tokens} tokens, more than the model's context of {context}"
            );
            let hint = format!("{CLEAR} begins a new one");
            Err(WrongInput::with_hint(message, hint).into())
        }
        checked => Ok(checked.map(|()| prompt)?),
    }
}

/// Whether a template was stopped. It may still be at work, with more and more memory.
fn takes_too_much(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(ChatError::TooMuch { .. }))
}

/// A conversation that goes on.
struct Talk<'m> {
    model: &'m Decoder,
    generator: Generator<'m, Decoder>,
    sampler: Sampler,
    options: GenerateOptions,
    chat: Chat,
    tokenizer: TextTokenizer,
    /// Whether messages are typed on a terminal, where the conversation goes on after a mistake.
    is_typed: bool,
}

impl Talk<'_> {
    /// Answers a message.
    fn reply(&mut self, message: &str) -> Result<()> {
        self.chat.add("user", message);
        let prompt = match prompt_of(&self.chat, self.model) {
            Err(error) if self.is_typed && !takes_too_much(&error) => {
                self.chat.take_back();
                tell!("{error:#}; {CLEAR} begins a new conversation");
                return Ok(());
            }
            prompt => prompt?.tokens,
        };
        let started = Instant::now();
        let (text, tokens) = answer(self.is_typed, || self.stream(&prompt))?;
        let speed = tokens as f64 / started.elapsed().as_secs_f64();
        note!("{}, {speed:.1} tokens/s", format::number_of(tokens, "token"));
        if tokens < self.options.max_new_tokens && tokens == most_new_tokens(self.model, &prompt) {
            tell!(
                "warning: the answer ends here because the model's context is full; {CLEAR} begins a \
                 new conversation"
            );
        }
        self.chat.add("assistant", &text);
        match must_stop() && !(self.is_typed && forgive_interrupt()) {
            true => Err(Interrupted.into()),
            false => Ok(()),
        }
    }

    /// Prints an answer as it is written. Returns it, and the number of its tokens.
    fn stream(&mut self, prompt: &[u32]) -> Result<(String, usize)> {
        let Self { generator, sampler, options, tokenizer, .. } = self;
        let mut decode = tokenizer.stream_after(prompt)?;
        let (mut text, mut trouble) = (String::new(), None);
        let tokens = generator.generate(prompt, sampler, options, |token| {
            let shown = decode(token).map_err(Into::into).and_then(|piece| {
                let piece = piece.unwrap_or_default();
                text.push_str(&piece);
                output::print_piece(&piece)
            });
            trouble = shown.err();
            match trouble.is_none() && !must_stop() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        if let Some(error) = trouble {
            return Err(error);
        }
        output::print_piece("\n")?;
        Ok((text, tokens.len()))
    }
}
