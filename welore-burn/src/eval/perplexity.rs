use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use burn::tensor::Device;

use crate::model::{LanguageModel, as_tensor, device_of, token_losses};
use crate::progress::{Interrupted, Progress};
use crate::words::number_of;
use crate::workers::Workers;

/// How perplexity is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerplexityOptions {
    /// Tokens in a window of the text; at least 2.
    pub seq_len: usize,
    /// The most windows to use; `None` uses all that the text fills.
    pub windows: Option<usize>,
    /// The number of windows computed at the same time, each on its own thread. CPU backends run
    /// elementwise operations on one thread, so a second window keeps the other cores busy; a GPU
    /// needs only one.
    pub at_once: NonZeroUsize,
}

impl Default for PerplexityOptions {
    /// Windows of 512 tokens, all that the text fills, one at a time.
    fn default() -> Self {
        Self { seq_len: 512, windows: None, at_once: NonZeroUsize::MIN }
    }
}

/// A measured perplexity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// `exp(nll / tokens)`.
    pub perplexity: f64,
    /// Sum of the negative log-likelihoods of all predicted tokens, in nats.
    pub nll: f64,
    /// Number of predicted tokens: `windows * (seq_len - 1)`.
    pub tokens: usize,
    /// Windows used.
    pub windows: usize,
}

/// Why perplexity cannot be measured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A window that predicts nothing.
    #[error("a window needs at least 2 tokens, not {0}")]
    SeqLen(usize),
    /// No windows were asked for.
    #[error("at least 1 window is needed")]
    NoWindows,
    /// The windows are longer than the model's context.
    #[error("windows of {seq_len} tokens are longer than the model's context of {context}")]
    Context {
        /// Tokens in a window.
        seq_len: usize,
        /// The model's context.
        context: usize,
    },
    /// The text does not fill one window.
    #[error("the text has {}, too few for one window of {seq_len}", number_of(*tokens, "token"))]
    TooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens in a window.
        seq_len: usize,
    },
    /// A token is not in the model's vocabulary.
    #[error(
        "token {token} is not in the model's vocabulary of {vocab_size}; does the tokenizer belong to another model?"
    )]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The loss of a window is infinite or not a number.
    #[error("the loss of window {window} is not finite")]
    NotFinite {
        /// Number of the window, from 0.
        window: usize,
    },
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

/// The number of logits of a window in memory at once, 134 MB of f32. The head's output is by far
/// the largest tensor of a forward pass, so it is computed in pieces.
const LOGITS_AT_ONCE: usize = 1 << 25;

/// Perplexity over consecutive windows: the text is cut into windows of `seq_len` tokens, each is
/// read from its start, every token but the first is predicted, and the mean negative
/// log-likelihood over all predicted tokens is exponentiated. Tokens at the end that do not fill a
/// window are not used.
///
/// Logits and their log-sum-exp are f32 as the model computes them; sums are f64.
///
/// # Errors
///
/// [`EvalError`].
pub fn perplexity(
    model: &impl LanguageModel,
    tokens: &[u32],
    options: &PerplexityOptions,
    progress: &mut dyn Progress,
) -> Result<Perplexity, EvalError> {
    let seq_len = options.seq_len;
    check_text(model, tokens, options)?;
    let windows = (tokens.len() / seq_len).min(options.windows.unwrap_or(usize::MAX));
    let windows: Vec<&[u32]> = tokens.chunks_exact(seq_len).take(windows).collect();
    progress.begin("perplexity", windows.len());
    progress.count_in("windows");
    let device = device_of(model);
    let loss = |window: &[u32]| nll_of(model, window, &device);
    let losses = in_threads(&windows, options.at_once, loss, progress)?;
    if let Some(window) = losses.iter().position(|nll| !nll.is_finite()) {
        return Err(EvalError::NotFinite { window });
    }
    let (nll, windows) = (losses.iter().sum::<f64>(), windows.len());
    let targets = windows * (seq_len - 1);
    Ok(Perplexity { perplexity: (nll / targets as f64).exp(), nll, tokens: targets, windows })
}

/// The loss of every window, in order. An interruption or a loss that is not finite ends the
/// work early.
fn in_threads(
    windows: &[&[u32]],
    threads: NonZeroUsize,
    loss: impl Fn(&[u32]) -> f64 + Sync,
    progress: &mut dyn Progress,
) -> Result<Vec<f64>, Interrupted> {
    let mut losses = vec![0.0; windows.len()];
    let mut outcome = Ok(());
    Workers::new(threads).spread(
        windows.len(),
        |index| loss(windows[index]),
        |index, nll| {
            losses[index] = nll;
            if outcome.is_ok() {
                outcome = progress.step(&format!("window {}", index + 1));
            }
            match outcome.is_ok() && nll.is_finite() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        },
    );
    outcome.map(|()| losses)
}

/// Checks that perplexity can be measured: that the text fills a window, that a window fits the
/// model's context, and that the model knows its tokens.
///
/// # Errors
///
/// [`EvalError`], as [`perplexity`] would return it.
pub fn check_text(
    model: &impl LanguageModel,
    tokens: &[u32],
    options: &PerplexityOptions,
) -> Result<(), EvalError> {
    let (seq_len, context) = (options.seq_len, model.context());
    if seq_len < 2 {
        return Err(EvalError::SeqLen(seq_len));
    }
    if options.windows == Some(0) {
        return Err(EvalError::NoWindows);
    }
    if seq_len > context {
        return Err(EvalError::Context { seq_len, context });
    }
    if tokens.len() < seq_len {
        return Err(EvalError::TooShort { tokens: tokens.len(), seq_len });
    }
    let vocab_size = model.vocab_size();
    match tokens.iter().find(|token| **token as usize >= vocab_size) {
        Some(token) => Err(EvalError::UnknownToken { token: *token, vocab_size }),
        None => Ok(()),
    }
}

/// Sum of the negative log-likelihoods of all tokens of a window but the first.
fn nll_of(model: &impl LanguageModel, window: &[u32], device: &Device) -> f64 {
    let (ids, len) = (as_tensor(window, device), window.len());
    let hidden = model.hidden(ids.clone()).squeeze_dim::<2>(0).narrow(0, 0, len - 1);
    let targets = ids.reshape([len, 1]).narrow(0, 1, len - 1);
    token_losses(model, hidden, targets, LOGITS_AT_ONCE)
        .map(|losses| losses.into_data().iter::<f64>().sum::<f64>())
        .sum()
}
