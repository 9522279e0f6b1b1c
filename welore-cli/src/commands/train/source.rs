//! From what a run trains on to rows of tokens, once: they are kept in `RUN/tokens`.

use std::path::Path;

use anyhow::Result;
use welore_burn::data::{
    Task, TaskExample, TextTokenizer, TokenRows, join_documents, read_documents, read_rows,
    read_text, write_rows,
};
use welore_burn::llama::{LlamaConfig, read_config};

use super::Evaluation;
use super::run_file::{RunFile, Source};
use crate::commands::task::Speaker;
use crate::failure::WrongInput;

const TOKENS_FILE: &str = "tokens";

/// The rows of a run: from its token file, or made once more from the same data.
pub fn rows(run: &RunFile, dir: &Path) -> Result<TokenRows> {
    let path = dir.join(TOKENS_FILE);
    if path.exists() {
        let (rows, source) = read_rows(&path)?;
        if source == run.data_digest {
            return Ok(rows);
        }
    }
    let (rows, digest) = tokenize(&run.data, &run.base, run.settings.seq_len)?;
    if digest != run.data_digest {
        let message = format!("{} is not what the run began with", run.data.path().display());
        return Err(WrongInput { message, hint: None }.into());
    }
    write_rows(path, &rows, &digest)?;
    Ok(rows)
}

/// Tokenizes a run's data, and writes the token file.
pub fn prepare(source: &Source, base: &Path, seq_len: usize, dir: &Path) -> Result<PreparedData> {
    let (rows, digest) = tokenize(source, base, seq_len)?;
    write_rows(dir.join(TOKENS_FILE), &rows, &digest)?;
    Ok(PreparedData { rows: rows.len(), digest })
}

/// Data in a token file.
pub struct PreparedData {
    /// How many rows.
    pub rows: usize,
    /// What identifies them.
    pub digest: String,
}

fn tokenize(source: &Source, base: &Path, seq_len: usize) -> Result<(TokenRows, String)> {
    let tokenizer = TextTokenizer::open(base)?;
    let end = read_config(base)?.eos_token_ids.first().copied();
    let rows = match source {
        Source::Text(path) => {
            let documents = read_documents(path)?;
            TokenRows::blocks(join_documents(&documents, &tokenizer, end)?, seq_len)
        }
        Source::Task { name, path } => {
            let pair = |example: TaskExample| {
                let mut response = tokenizer.encode(&example.response)?;
                response.extend(end);
                Ok((tokenizer.encode_prompt(&example.prompt)?, response))
            };
            let train = Task::read(*name, path)?.train;
            let pairs = train.into_iter().map(pair).collect::<Result<Vec<_>>>()?;
            TokenRows::responses(pairs, seq_len)
        }
    };
    let mut digest = blake3::Hasher::new();
    for token in rows.tokens() {
        digest.update(&token.to_le_bytes());
    }
    Ok((rows, digest.finalize().to_hex().to_string()))
}

/// What a run is evaluated on.
pub fn evaluation(run: &RunFile, config: &LlamaConfig) -> Result<Evaluation> {
    if let Some(path) = &run.eval_text {
        let tokens = TextTokenizer::open(&run.base)?.encode(&read_text(path)?)?;
        return Ok(Evaluation::Text(tokens));
    }
    let Source::Task { name, path } = &run.data else { return Ok(Evaluation::Nothing) };
    if run.settings.eval_every == 0 {
        return Ok(Evaluation::Nothing);
    }
    let mut examples = Task::read(*name, path)?.test;
    examples.truncate(run.eval_blocks.unwrap_or(usize::MAX));
    Ok(Evaluation::Task(Speaker::open(&run.base, config)?, examples))
}
