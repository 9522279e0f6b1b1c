//! `generate`: continue a prompt.

use std::io::Write;
use std::ops::ControlFlow;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;
use welore_burn::data::TextTokenizer;
use welore_burn::llama::{GenerateOptions, Sampler, generate, load_llama};

use super::device;
use crate::args::GenerateArgs;
use crate::format;
use crate::terminal::{Bar, interrupted};

/// Runs the command.
pub fn run(args: GenerateArgs) -> Result<()> {
    let device = device();
    let mut sampler = Sampler::new(args.temperature, args.top_k, args.top_p, args.seed)?;
    let loaded = load_llama(&args.model, &device, &mut Bar::default())?;
    let tokenizer = TextTokenizer::open(&args.model)?;
    let prompt = tokenizer.encode(&args.prompt)?;
    let options = GenerateOptions {
        max_new_tokens: args.max_new_tokens,
        max_context: loaded.config.max_position_embeddings,
        stop: loaded.config.eos_token_ids.clone(),
    };

    let stream = !args.json;
    let mut decode = tokenizer.stream();
    let mut trouble = None;
    let show = |token: u32| -> Result<()> {
        if let Some(text) = decode(token)? {
            print!("{text}");
            std::io::stdout().flush()?;
        }
        Ok(())
    };
    let mut show = show;
    if stream {
        print!("{}", args.prompt);
        std::io::stdout().flush()?;
    }
    let started = Instant::now();
    let tokens = generate(&loaded.model, &prompt, &mut sampler, &options, &device, |token| {
        if stream && let Err(error) = show(token) {
            trouble = Some(error);
        }
        match trouble.is_some() || interrupted() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    let speed = tokens.len() as f64 / started.elapsed().as_secs_f64();
    if let Some(error) = trouble {
        return Err(error);
    }
    if stream {
        println!();
        eprintln!("{} tokens, {speed:.1} tokens/s", tokens.len());
        return Ok(());
    }
    format::print_json(&json!({
        "prompt": args.prompt,
        "text": tokenizer.decode(&tokens)?,
        "prompt_ids": prompt,
        "ids": tokens,
        "tokens_per_second": speed,
    }))
}
