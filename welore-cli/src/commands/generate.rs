//! `generate`: continue a prompt, or answer a message.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use welore_burn::data::TextTokenizer;
use welore_burn::model::{
    Decoder, DecoderConfig, GenerateOptions, LanguageModel, check_prompt, generate, most_new_tokens,
};
use welore_burn::progress::Interrupted;

use crate::args::{GenerateArgs, Typed, rule};
use crate::devices::Compute;
use crate::shared::adapting::{load, note_adapter, open};
use crate::shared::beginning::{Beginning, prompt_tokens};
use crate::shared::chatting::{Chat, ChatPrompt, sampler_of};
use crate::shared::effects::of_sampling;
use crate::terminal::{Task, Unit, must_stop};
use crate::{format, output};

/// Runs the command.
pub fn run(args: GenerateArgs, typed: &Typed) -> Result<()> {
    check_effects(&args, typed)?;
    let mut sampler = sampler_of(&args.sampling)?;
    let compute = Compute::choose(args.compute.choice())?;
    let (model, opened, adapter) = open(&args.model, args.adapter.as_deref(), &compute)?;
    let tokenizer = TextTokenizer::open(&model)?;
    let Asked { chat, text, tokens: prompt, beginning } =
        Asked::of(&args, &model, &tokenizer, &opened.config)?;
    // Checked here because loading weights may take long.
    check_prompt(opened.skeleton(), &prompt)?;
    let room = Room::of(opened.skeleton(), &prompt, &args, typed);
    let loaded = load(opened, compute.dtype, adapter)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        stop: stop_of(chat.as_ref(), &loaded.config)?,
    };

    let mut decode = tokenizer.stream_after(&prompt)?;
    // The prompt is printed with the first token, so a refused prompt leaves stdout empty.
    let mut unseen = if args.json || args.chat { String::new() } else { args.prompt.clone() };
    let mut trouble = None;
    let mut task = task_of(&args, room.most);
    let started = Instant::now();
    let mut first = None;
    let tokens = generate(&loaded.model, &prompt, &mut sampler, &options, |token| {
        task.step();
        first.get_or_insert_with(|| started.elapsed());
        let shown = decode(token).map_err(Into::into).and_then(|piece| {
            unseen.push_str(&piece.unwrap_or_default());
            if args.json { Ok(()) } else { output::print_piece(&std::mem::take(&mut unseen)) }
        });
        trouble = shown.err();
        match trouble.is_none() && !must_stop() {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    task.end();
    let speed = Speed::of(prompt.len(), tokens.len(), first, started.elapsed());
    trouble.map_or(Ok(()), Err)?;
    if !args.json {
        output::print_piece(&(std::mem::take(&mut unseen) + "\n"))?;
        note!("{}, {:.1} tokens/s", format::number_of(tokens.len(), "token"), speed.all);
    }
    if must_stop() {
        return Err(Interrupted.into());
    }
    let ended = room.why_ended(tokens.len(), args.max_new_tokens);
    if !args.json {
        return Ok(());
    }
    let mut result = beginning.with(json!({
        "prompt": args.prompt,
        "rendered": chat.map(|_| text),
        "text": unseen,
        "prompt_ids": prompt,
        "ids": tokens,
        "ended": ended,
        "tokens_per_second": speed.all,
        "prompt_tokens_per_second": speed.prompt,
        "next_tokens_per_second": speed.next,
    }));
    note_adapter(args.adapter.as_deref(), &mut result);
    output::print_json(&result)
}

/// Shows how far the work is, unless the text itself does. `most` tokens fit in the model.
fn task_of(args: &GenerateArgs, most: usize) -> Task {
    match args.json {
        true => Task::begin("generating", Unit::TOKENS, args.max_new_tokens.min(most) as u64),
        false => Task::default(),
    }
}

/// Tokens per second.
struct Speed {
    /// New tokens, in all the time.
    all: f64,
    /// Those of the prompt, until the first new token is known.
    prompt: Option<f64>,
    /// New tokens after the first one, from then on.
    next: Option<f64>,
}

impl Speed {
    fn of(prompt: usize, tokens: usize, first: Option<Duration>, all: Duration) -> Self {
        let rate = |tokens: usize, time: Duration| tokens as f64 / time.as_secs_f64();
        let rest = first.and_then(|first| all.checked_sub(first)).filter(|rest| !rest.is_zero());
        Self {
            all: rate(tokens, all),
            prompt: first.map(|first| rate(prompt, first)),
            next: rest.filter(|_| tokens > 1).map(|rest| rate(tokens - 1, rest)),
        }
    }
}

/// The options of conversations.
const OF_CHAT: [&str; 4] = ["system", "history", "template", "template-option"];

/// Checks that what was typed has an effect.
fn check_effects(args: &GenerateArgs, typed: &Typed) -> Result<()> {
    typed.check(of_sampling(&args.sampling))?;
    typed.check(OF_CHAT.map(|option| rule(option, args.chat, "only with --chat")))?;
    typed.check([rule("bos", !args.chat, "a chat template says what a conversation begins with")])
}

/// The tokens that end the text.
fn stop_of(chat: Option<&Chat>, config: &DecoderConfig) -> Result<Vec<u32>> {
    chat.map_or_else(|| Ok(config.eos_token_ids.clone()), |chat| chat.stop(config))
}

/// What the model continues.
struct Asked {
    chat: Option<Chat>,
    text: String,
    tokens: Vec<u32>,
    beginning: Beginning,
}

impl Asked {
    /// The prompt; with --chat, the conversation that it is the last message of.
    fn of(
        args: &GenerateArgs,
        model: &Path,
        tokenizer: &TextTokenizer,
        config: &DecoderConfig,
    ) -> Result<Self> {
        if !args.chat {
            let (tokens, beginning) = prompt_tokens(&args.prompt, args.bos, tokenizer, config)?;
            return Ok(Self { chat: None, text: args.prompt.clone(), tokens, beginning });
        }
        let mut chat = Chat::open(&args.conversation, model, tokenizer)?;
        chat.add("user", &args.prompt);
        let ChatPrompt { text, tokens } = chat.prompt()?;
        let beginning = Beginning::of_prompt(&tokens, tokenizer, config)?;
        Ok(Self { chat: Some(chat), text, tokens, beginning })
    }
}

/// How many tokens can follow a prompt.
struct Room {
    context: usize,
    most: usize,
    /// The user knows that the text will end with the context.
    is_foreseen: bool,
}

impl Room {
    /// Warns if more tokens were asked for than can follow.
    fn of(model: &Decoder, prompt: &[u32], args: &GenerateArgs, typed: &Typed) -> Self {
        let (context, most) = (model.context(), most_new_tokens(model, prompt));
        let is_foreseen = args.max_new_tokens > most && typed.has("max-new-tokens");
        if is_foreseen {
            tell!(
                "warning: --max-new-tokens {}: at most {} can follow this prompt, because the \
                 model's context is {context}",
                args.max_new_tokens,
                format::number_of(most, "token")
            );
        }
        Self { context, most, is_foreseen }
    }

    /// Why a text ended after so many tokens. Warns if the context is full.
    fn why_ended(&self, tokens: usize, asked: usize) -> &'static str {
        let ended = match tokens {
            count if count == asked => "max_new_tokens",
            count if count == self.most => "context",
            _ => "end_token",
        };
        if ended == "context" && !self.is_foreseen {
            let context = self.context;
            tell!(
                "warning: the text ends here because the model's context of {context} tokens is full"
            );
        }
        ended
    }
}
