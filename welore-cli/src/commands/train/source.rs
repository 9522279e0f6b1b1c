//! From what a run trains on to rows of tokens, once: they are kept in `RUN/tokens`.

use std::path::Path;

use anyhow::Result;
use welore_burn::data::{
    Task, TaskExample, TextTokenizer, TokenRows, join_documents, read_documents, read_rows,
    write_rows,
};
use welore_burn::llama::read_config;

use super::Evaluation;
use super::run_file::{RunFile, Source};
use crate::commands::task::Speaker;
use crate::failure::WrongInput;

const TOKENS_FILE: &str = "tokens";

/// The rows of a run: from its token file, or made once more from the same data.
pub fn rows(run: &RunFile, dir: &Path) -> Result<TokenRows> {
    let path = dir.join(TOKENS_FILE);
    if let Ok(rows) = read_rows(&path)
        && rows.digest() == run.data_digest
    {
        return Ok(rows);
    }
    let rows = tokenize(&run.data, run.base(), run.settings.seq_len)?;
    if rows.digest() != run.data_digest {
        return Err(changed(run.data.path()));
    }
    write_rows(path, &rows)?;
    Ok(rows)
}

fn changed(path: &Path) -> anyhow::Error {
    let message = format!("{} is not what the run began with", path.display());
    WrongInput { message, hint: None }.into()
}

/// Tokenizes a run's data, and writes the token file.
pub fn prepare(source: &Source, base: &Path, seq_len: usize, dir: &Path) -> Result<TokenRows> {
    let rows = tokenize(source, base, seq_len)?;
    write_rows(dir.join(TOKENS_FILE), &rows)?;
    Ok(rows)
}

/// Tokenizes a run's data, by the tokenizer of `base`.
pub fn tokenize(source: &Source, base: &Path, seq_len: usize) -> Result<TokenRows> {
    let end = read_config(base)?.eos_token_ids.first().copied();
    let tokenizer = TextTokenizer::open(base)?;
    match source {
        Source::Text(path) => {
            let documents = read_documents(path)?;
            Ok(TokenRows::blocks(join_documents(&documents, &tokenizer, end)?, seq_len))
        }
        Source::Task { name, path } => {
            let pair = |example: TaskExample| {
                let mut response = tokenizer.encode(&example.response)?;
                response.extend(end);
                Ok((tokenizer.encode_prompt(&example.prompt)?, response))
            };
            let train = Task::read(*name, path)?.train;
            let pairs = train.into_iter().map(pair).collect::<Result<Vec<_>>>()?;
            Ok(TokenRows::responses(pairs, seq_len))
        }
    }
}

/// What a run is evaluated on, and what identifies that.
pub fn evaluation(run: &RunFile) -> Result<(Evaluation, Option<String>)> {
    if run.settings.eval_every == 0 {
        return Ok((Evaluation::Nothing, None));
    }
    let config = read_config(run.base())?;
    if let Some(path) = &run.eval_text {
        let tokenizer = TextTokenizer::open(run.base())?;
        let end = config.eos_token_ids.first().copied();
        let tokens = join_documents(&read_documents(path)?, &tokenizer, end)?;
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let digest = blake3::hash(&bytes).to_hex().to_string();
        return Ok((Evaluation::Text(tokens), Some(digest)));
    }
    let Source::Task { name, path } = &run.data else { return Ok((Evaluation::Nothing, None)) };
    let mut examples = Task::read(*name, path)?.test;
    examples.truncate(run.eval_blocks.unwrap_or(usize::MAX));
    let mut digest = blake3::Hasher::new();
    for example in &examples {
        for text in [&example.prompt, &example.response] {
            digest.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
    }
    let speaker = Box::new(Speaker::open(run.base(), &config)?);
    Ok((Evaluation::Task(speaker, examples), Some(digest.finalize().to_hex().to_string())))
}

/// The same for a run that began before: it must still be the same.
pub fn same_evaluation(run: &RunFile) -> Result<Evaluation> {
    let (evaluation, digest) = evaluation(run)?;
    match digest == run.eval_digest {
        true => Ok(evaluation),
        false => Err(changed(run.eval_text.as_deref().unwrap_or(run.data.path()))),
    }
}
