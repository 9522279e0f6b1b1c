//! Texts as tokens.

use std::path::Path;

use anyhow::Result;
use welore_burn::data::{Marks, TextTokenizer, join_documents, read_documents};
use welore_burn::eval::PerplexityOptions;
use welore_burn::model::{DecoderConfig, TextWindows};

use super::beginning::Beginning;
use crate::args::BosArg;
use crate::models::{Wanted, check_kind};

/// Reads the documents of a text that the user named.
pub fn documents_of(path: &Path) -> Result<Vec<String>> {
    check_kind(path, Wanted::Text)?;
    Ok(read_documents(path)?)
}

/// Warns of a text to learn from that is full of marks such as `<unk>`.
pub fn warn_of_marks(path: &Path, documents: &[String]) {
    if let Some(marks) = Marks::find(documents) {
        tell!(
            "warning: {}: {marks}; a model that learns from it writes such marks; use the \
             original text",
            path.display()
        );
    }
}

/// Tokens per window of a text whose perplexity is measured: as many as `given`, else the usual
/// number, or the model's context if that is shorter.
pub fn window_of(given: Option<usize>, config: &DecoderConfig) -> usize {
    let usual = PerplexityOptions::default().seq_len;
    given.unwrap_or(usual.min(config.context()).max(2))
}

/// The tokenizer of a model, and the tokens that begin and end its texts.
#[derive(Debug)]
pub struct TextReader {
    /// The tokenizer.
    pub tokenizer: TextTokenizer,
    /// The token after each of several documents.
    pub end: Option<u32>,
    /// What begins with the token that begins texts.
    pub beginning: Beginning,
}

impl TextReader {
    /// The tokenizer of a model directory, for texts that begin as it is asked for.
    pub fn open(dir: &Path, config: &DecoderConfig, bos: BosArg) -> Result<Self> {
        let end = config.eos_token_ids.first().copied();
        let tokenizer = TextTokenizer::open(dir)?;
        let beginning = Beginning::of(bos, &tokenizer, config)?;
        Ok(Self { tokenizer, end, beginning })
    }

    /// The tokens of documents in windows of `seq_len` tokens that follow each other, with what begins
    /// them. The last one may be shorter.
    ///
    /// # Panics
    ///
    /// Panics if `seq_len` is below 2.
    pub fn windows(&self, documents: &[String], seq_len: usize) -> Result<Vec<u32>> {
        Ok(TextWindows::new(&self.tokens(documents)?, self.beginning.bos, seq_len).all())
    }

    /// The tokens of a file, without what begins them.
    pub fn read(&self, path: &Path) -> Result<Vec<u32>> {
        self.tokens(&documents_of(path)?)
    }

    /// The tokens of documents, without what begins them.
    pub fn tokens(&self, documents: &[String]) -> Result<Vec<u32>> {
        Ok(join_documents(documents, &self.tokenizer, self.end)?)
    }
}
