//! `eval`: perplexity on a text.

use std::time::Instant;

use anyhow::Result;
use burn::module::Module;
use serde_json::json;
use welore_burn::data::{TextTokenizer, read_text};
use welore_burn::eval::{EvalError, Perplexity, PerplexityOptions, perplexity};
use welore_burn::llama::{LoadedLlama, load_llama};

use super::{blocks_at_once, device, in_file};
use crate::args::EvalArgs;
use crate::format;
use crate::terminal::Bar;

/// Runs the command.
pub fn run(args: EvalArgs) -> Result<()> {
    let device = device();
    let text = read_text(&args.text)?;
    let loaded = load_llama(&args.model, &device, &mut Bar::default())?;
    let tokens = TextTokenizer::open(&args.model)?.encode(&text)?;
    let options =
        PerplexityOptions { seq_len: args.seq_len, blocks: args.blocks, at_once: blocks_at_once() };
    let context = loaded.config.max_position_embeddings;
    let mut bar = Bar::default();
    let started = Instant::now();
    let measured = perplexity(&loaded.model, &tokens, context, &options, &device, &mut bar);
    let result = match measured {
        // Only this one is about the text.
        Err(error @ EvalError::TooShort { .. }) => in_file(Err(error), &args.text)?,
        other => other?,
    };
    bar.finish();
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        print_json(&args, &loaded, &result, seconds)
    } else {
        print_summary(&args, &loaded, &result, seconds)
    }
}

/// Tokens read a second, first tokens of blocks included.
fn speed(args: &EvalArgs, result: &Perplexity, seconds: f64) -> f64 {
    (result.blocks * args.seq_len) as f64 / seconds
}

fn print_json(
    args: &EvalArgs,
    loaded: &LoadedLlama,
    result: &Perplexity,
    seconds: f64,
) -> Result<()> {
    format::print_json(&json!({
        "perplexity": result.perplexity,
        "nll": result.nll,
        "tokens": result.tokens,
        "blocks": result.blocks,
        "seq_len": args.seq_len,
        "parameters": loaded.model.num_params(),
        "bytes": loaded.bytes,
        "seconds": seconds,
        "tokens_per_second": speed(args, result, seconds),
    }))
}

fn print_summary(
    args: &EvalArgs,
    loaded: &LoadedLlama,
    result: &Perplexity,
    seconds: f64,
) -> Result<()> {
    say!(
        "perplexity {} over {} tokens ({} blocks of {})",
        format::perplexity(result.perplexity),
        result.tokens,
        result.blocks,
        args.seq_len
    );
    say!(
        "parameters {}, {} on disk, {:.0} tokens/s",
        format::count(loaded.model.num_params() as u64),
        format::bytes(loaded.bytes),
        speed(args, result, seconds)
    );
    Ok(())
}
