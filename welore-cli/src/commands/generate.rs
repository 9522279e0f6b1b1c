//! `generate`: continue a prompt.

use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use welore_burn::data::TextTokenizer;
use welore_burn::model::{
    Decoder, GenerateOptions, LanguageModel, Sampler, check_prompt, generate, most_new_tokens,
};
use welore_burn::progress::Interrupted;

use crate::args::{GenerateArgs, Typed, rule};
use crate::devices::Compute;
use crate::shared::adapting::{load, note_adapter, open};
use crate::terminal::{Task, Unit, must_stop};
use crate::{format, output};

/// Runs the command.
pub fn run(args: GenerateArgs, typed: &Typed) -> Result<()> {
    let (samples, only) = (args.temperature != 0.0, "only with a --temperature above 0");
    typed.check(["top-k", "top-p", "seed"].map(|option| rule(option, samples, only)))?;
    let mut sampler = Sampler::new(args.temperature, args.top_k, args.top_p, args.seed)?;
    let compute = Compute::choose(args.compute.choice())?;
    let (model, opened, adapter) = open(&args.model, args.adapter.as_deref(), &compute)?;
    let tokenizer = TextTokenizer::open(&model)?;
    let prompt = tokenizer.encode_prompt(&args.prompt)?;
    // Checked here because loading weights may take long.
    check_prompt(opened.skeleton(), &prompt)?;
    let room = Room::of(opened.skeleton(), &prompt, &args, typed);
    let loaded = load(opened, compute.dtype, adapter)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        stop: loaded.config.eos_token_ids.clone(),
    };

    let mut decode = tokenizer.stream_after(&prompt)?;
    // The prompt is printed with the first token, so a refused prompt leaves stdout empty.
    let mut unseen = if args.json { String::new() } else { args.prompt.clone() };
    let mut trouble = None;
    // Otherwise the text itself shows how far it is.
    let mut task = match args.json {
        true => Task::begin("generating", Unit::TOKENS, args.max_new_tokens.min(room.most) as u64),
        false => Task::default(),
    };
    let started = Instant::now();
    let tokens = generate(&loaded.model, &prompt, &mut sampler, &options, |token| {
        task.step();
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
    let speed = tokens.len() as f64 / started.elapsed().as_secs_f64();
    if let Some(error) = trouble {
        return Err(error);
    }
    if !args.json {
        output::print_piece(&(std::mem::take(&mut unseen) + "\n"))?;
        note!("{}, {speed:.1} tokens/s", format::number_of(tokens.len(), "token"));
    }
    if must_stop() {
        return Err(Interrupted.into());
    }
    let ended = room.why_ended(tokens.len(), args.max_new_tokens);
    if !args.json {
        return Ok(());
    }
    let mut result = json!({
        "prompt": args.prompt,
        "text": unseen,
        "prompt_ids": prompt,
        "ids": tokens,
        "ended": ended,
        "tokens_per_second": speed,
    });
    note_adapter(args.adapter.as_deref(), &mut result);
    output::print_json(&result)
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
