//! What `--against` names: a dense model, or what it said.

use std::path::{Path, PathBuf};

use anyhow::Result;
use welore_burn::eval::{
    Divergence, EvalError, PerplexityOptions, SavedLogits, check_text, divergence,
};
use welore_burn::model::{Decoder, LanguageModel, OpenedModel};
use welore_burn::train::model_digest;

use crate::args::BosArg;
use crate::devices::Compute;
use crate::failure::WrongInput;
use crate::models;
use crate::shared::opening::open_known;
use crate::shared::text::TextReader;
use crate::terminal::Bar;

/// A text to measure on.
pub struct Text {
    /// Its file.
    pub path: PathBuf,
    pub documents: Vec<String>,
    /// Without what begins windows.
    pub tokens: Vec<u32>,
}

/// A model that is measured, and the texts.
pub struct Subject<'a> {
    /// Its directory.
    pub dir: &'a Path,
    pub opened: &'a OpenedModel,
    pub texts: &'a [Text],
    pub options: &'a PerplexityOptions,
}

/// What a model is compared with, before weights are read.
pub enum Against {
    /// The model itself.
    Itself,
    /// Another model, and its directory.
    Model(Box<OpenedModel>, PathBuf),
    /// What another model said.
    Saved(Box<SavedLogits>),
}

impl Against {
    /// What a path names, after checking that the model can be compared with it.
    pub fn open(path: &Path, subject: &Subject<'_>, compute: &Compute) -> Result<Self> {
        let Subject { dir, opened, texts, options } = *subject;
        let vocab_size = opened.skeleton().vocab_size();
        if path.is_file() && !models::is_model_file(path) {
            models::check_compared(path)?;
            let saved = SavedLogits::open(path)?;
            for text in texts {
                saved.check(vocab_size, &text.tokens, options)?;
            }
            return Ok(Self::Saved(Box::new(saved)));
        }
        let dense_dir = models::directory_to_run(path, compute)?;
        let place = |dir: &Path| dir.canonicalize().ok();
        if place(&dense_dir).is_some_and(|dense| Some(dense) == place(dir)) {
            return Ok(Self::Itself);
        }
        let dense = open_known(&dense_dir, &compute.device)?;
        let dense_size = dense.skeleton().vocab_size();
        if dense_size != vocab_size {
            return Err(EvalError::Vocabulary { vocab_size, dense: dense_size }.into());
        }
        // Windows begin as those of the model do.
        let reader = TextReader::open(&dense_dir, &dense.config, BosArg::Off)?;
        for text in texts {
            if reader.tokens(&text.documents)? != text.tokens {
                let message = format!("{}: its tokens of the text are not MODEL's", path.display());
                let hint = "give the dense model that this one was made from";
                return Err(WrongInput::with_hint(message, hint).into());
            }
            check_text(dense.skeleton(), &text.tokens, options)?;
        }
        Ok(Self::Model(Box::new(dense), dense_dir))
    }

    /// The digest of the model that it is compared with; `None` for the model itself.
    pub fn model_digest(&self) -> Result<Option<String>> {
        Ok(match self {
            Self::Itself => None,
            Self::Model(_, dir) => Some(model_digest(dir)?),
            Self::Saved(saved) => Some(saved.source().model_digest),
        })
    }

    /// Reads the weights.
    pub fn load(self, compute: &Compute) -> Result<Dense> {
        Ok(match self {
            Self::Itself => Dense::Itself,
            Self::Model(opened, _) => {
                let loaded = opened.load(compute.dtype, |_| false, &mut Bar::default())?;
                Dense::Model(Box::new(loaded.model))
            }
            Self::Saved(saved) => Dense::Saved(saved),
        })
    }
}

/// What a model is compared with.
pub enum Dense {
    Itself,
    Model(Box<Decoder>),
    Saved(Box<SavedLogits>),
}

impl Dense {
    /// Compares a model with it.
    pub fn measure(
        &self,
        model: &Decoder,
        tokens: &[u32],
        options: &PerplexityOptions,
        bar: &mut Bar,
    ) -> Result<Divergence> {
        Ok(match self {
            Self::Itself => divergence(model, model, tokens, options, bar)?,
            Self::Model(dense) => divergence(model, &**dense, tokens, options, bar)?,
            Self::Saved(saved) => saved.divergence(model, tokens, options, bar)?,
        })
    }
}
