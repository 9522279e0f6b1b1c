use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;

use burn::tensor::Device;
use rand::Rng;
use rand_chacha::ChaCha12Rng;

use super::draw::{drawn, stream};
use super::text::SampledText;
use crate::model::{LanguageModel, as_tensor, device_of};
use crate::progress::{Interrupted, Progress};
use crate::words::{number, number_of};

/// How a model writes a text of its own; see [`own_text`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OwnTextOptions {
    /// Number of samples; at least 1.
    pub samples: usize,
    /// Tokens in a sample, the one that it starts from included; at least 2, at most the model's
    /// context.
    pub length: usize,
    /// What logits are divided by, above 0. At 1, tokens have the probabilities that the model
    /// gives them.
    pub temperature: f64,
    /// Sample number `i` draws its tokens with stream `i` of the random numbers of this seed, so it
    /// does not depend on the others.
    pub seed: u64,
    /// The token that every sample starts from. `None` is an error.
    pub start: Option<u32>,
    /// Number of samples that are written together. The cache holds keys and values of all of them.
    pub at_once: NonZeroUsize,
}

impl Default for OwnTextOptions {
    /// 64 samples of 512 tokens, all of them together, at temperature 1 with seed 0. A `start` has
    /// to be given.
    fn default() -> Self {
        let at_once = NonZeroUsize::new(64).expect("64 is not zero");
        Self { samples: 64, length: 512, temperature: 1.0, seed: 0, start: None, at_once }
    }
}

/// A text that a model wrote; see [`own_text`].
#[derive(Debug, Clone, PartialEq)]
pub struct OwnText {
    /// The tokens of every sample.
    pub samples: Vec<Vec<u32>>,
    /// How they were written.
    pub sampled: SampledText,
}

impl OwnText {
    /// How evenly the tokens are spread: the entropy of their frequencies as a share of the most
    /// that so many tokens of a vocabulary can have. Texts have 0.67 (SmolLM2) to 0.80 (a tiny
    /// vocabulary); near 1 the model knows nothing of what follows the start.
    pub fn evenness(&self, vocab_size: usize) -> f64 {
        let mut counts = BTreeMap::<u32, u64>::new();
        for token in self.samples.iter().flatten() {
            *counts.entry(*token).or_default() += 1;
        }
        let all = counts.values().sum::<u64>();
        let share = |count: u64| count as f64 / all as f64;
        let entropy = counts.values().map(|&count| -share(count) * share(count).ln()).sum::<f64>();
        let most = (vocab_size as f64).min(all as f64).ln();
        if most > 0.0 { entropy / most } else { 0.0 }
    }
}

/// Why a model cannot write a text of its own.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OwnTextError {
    /// No token to start from.
    #[error("the model's own text has no token to start from")]
    NoStart,
    /// The token to start from is outside the vocabulary.
    #[error(
        "the model's own text cannot start from token {token}: the vocabulary has {vocab_size} tokens"
    )]
    UnknownStart {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// No samples were requested.
    #[error("the model's own text needs at least 1 sample")]
    NoSamples,
    /// Samples too short to have a token of their own.
    #[error("a sample of the model's own text needs at least 2 tokens, not {0}")]
    Length(usize),
    /// Samples longer than the model's context.
    #[error("samples of {length} tokens are longer than the model's context of {context}")]
    Context {
        /// Number of tokens in a sample.
        length: usize,
        /// The model's context, in tokens.
        context: usize,
    },
    /// Zero, negative or not finite.
    #[error("temperature {} is not a finite number above 0", number(*.0))]
    Temperature(f64),
    /// The model computed logits that are infinite or not a number.
    #[error("the model's logits are not finite after {}", number_of(*tokens, "token"))]
    NotFinite {
        /// Number of tokens of the sample before.
        tokens: usize,
    },
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

impl OwnTextOptions {
    /// Checks what does not need the model.
    ///
    /// # Errors
    ///
    /// [`OwnTextError::NoSamples`], [`OwnTextError::Length`], [`OwnTextError::Temperature`].
    pub fn check(&self) -> Result<(), OwnTextError> {
        if self.samples == 0 {
            return Err(OwnTextError::NoSamples);
        }
        if self.length < 2 {
            return Err(OwnTextError::Length(self.length));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(OwnTextError::Temperature(self.temperature));
        }
        Ok(())
    }

    /// The number of batches, and the most samples in one. Batches of about the same size are faster
    /// than full ones and a small one.
    pub(super) fn batches(&self) -> (usize, usize) {
        let batches = self.samples.div_ceil(self.at_once.get());
        (batches, self.samples.div_ceil(batches))
    }

    /// Checks everything that is known before the model computes, and returns the token to start
    /// from. A model without weights will do.
    ///
    /// # Errors
    ///
    /// Those of [`check`](Self::check), [`OwnTextError::NoStart`], [`OwnTextError::UnknownStart`]
    /// and [`OwnTextError::Context`].
    pub fn check_for(&self, model: &impl LanguageModel) -> Result<u32, OwnTextError> {
        self.check()?;
        let (length, context, vocab_size) = (self.length, model.context(), model.vocab_size());
        if length > context {
            return Err(OwnTextError::Context { length, context });
        }
        match self.start {
            None => Err(OwnTextError::NoStart),
            Some(token) if token as usize >= vocab_size => {
                Err(OwnTextError::UnknownStart { token, vocab_size })
            }
            Some(token) => Ok(token),
        }
    }
}

/// Lets a model write the text that it is calibrated on, each token sampled from what the model
/// expects after those before it.
///
/// A sample goes on after a token that ends a text, as in documents that are packed together. On one
/// machine, the same model and options give the same samples. Which of them are written together
/// changes only how the model's numbers are rounded.
///
/// # Errors
///
/// [`OwnTextError`].
pub fn own_text<M: LanguageModel>(
    model: &M,
    options: &OwnTextOptions,
    progress: &mut dyn Progress,
) -> Result<OwnText, OwnTextError> {
    let start = options.check_for(model)?;
    let plain = model.valid();
    let writer = Writer { model: &plain, device: device_of(&plain), start, options };
    let (batches, size) = options.batches();
    let what = format!("writing {} of {} tokens", samples(options.samples), options.length);
    progress.begin(&what, batches * (options.length - 1));
    progress.count_in("tokens");
    let mut samples = Vec::with_capacity(options.samples);
    for first in (0..options.samples).step_by(size) {
        samples.extend(writer.batch(first..options.samples.min(first + size), progress)?);
    }
    let OwnTextOptions { length, temperature, seed, .. } = *options;
    let sampled = SampledText { samples: samples.len(), length, temperature, seed, start };
    Ok(OwnText { samples, sampled })
}

/// What all batches of samples share.
pub(super) struct Writer<'a, M> {
    pub model: &'a M,
    pub device: Device,
    pub start: u32,
    pub options: &'a OwnTextOptions,
}

impl<M: LanguageModel> Writer<'_, M> {
    /// The samples of these numbers, one token of each after the other.
    pub fn batch(
        &self,
        numbers: Range<usize>,
        progress: &mut dyn Progress,
    ) -> Result<Vec<Vec<u32>>, OwnTextError> {
        let OwnTextOptions { length, seed, .. } = *self.options;
        let count = numbers.len();
        let which = match count {
            1 => format!("sample {}", numbers.end),
            _ => format!("samples {} to {}", numbers.start + 1, numbers.end),
        };
        let mut random: Vec<ChaCha12Rng> =
            numbers.map(|number| stream(seed, number as u64)).collect();
        let mut samples: Vec<Vec<u32>> = vec![vec![self.start]; count];
        let mut cache = self.model.cache();
        let mut last = vec![self.start; count];
        for position in 1..length {
            progress.step(&format!("token {} of {which}", position + 1))?;
            last = self
                .next(&last, &mut random, &mut cache)
                .ok_or(OwnTextError::NotFinite { tokens: position })?;
            for (sample, token) in samples.iter_mut().zip(&last) {
                sample.push(*token);
            }
        }
        Ok(samples)
    }

    /// The next token of every sample, after its `last` one. `None` if logits are not finite.
    pub fn next(
        &self,
        last: &[u32],
        random: &mut [ChaCha12Rng],
        cache: &mut M::Cache,
    ) -> Option<Vec<u32>> {
        let temperature = self.options.temperature;
        let tokens = as_tensor(last, &self.device).reshape([last.len(), 1]);
        let hidden = self.model.extend(tokens, cache);
        let logits = self.model.logits(hidden);
        let [count, _, vocab_size] = logits.dims();
        let places: Vec<f64> = random.iter_mut().map(|random| random.random()).collect();
        drawn(logits.reshape([count, vocab_size]), &places, temperature)
    }
}

/// `1 sample`, `2 samples`.
pub(super) fn samples(count: usize) -> String {
    number_of(count, "sample")
}
