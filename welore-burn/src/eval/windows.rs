//! The windows of a text: how it is cut, which predictions are scored, and the one walk over them.

use std::num::NonZeroUsize;

use burn::tensor::Tensor;

use crate::model::{Bos, LanguageModel, TextWindows, as_tensor, device_of};
use crate::progress::{Interrupted, Progress};
use crate::words::number_of;
use crate::workers::Workers;

/// How a text is read to measure perplexity, or the divergence of one model from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerplexityOptions {
    /// Tokens in a window of the text; at least 2.
    pub seq_len: usize,
    /// The most windows to use; `None` uses all that the text fills.
    pub windows: Option<usize>,
    /// The number of predictions at the start of each window that are not scored, because they are
    /// made from few tokens. With 0 every token of a window but the first is scored. Half of
    /// `seq_len` is what llama.cpp's `llama-perplexity` does.
    pub skip: usize,
    /// What begins with the token that begins texts (BOS); `None` for nothing. A window that begins
    /// with it has one token less of the text, which makes no difference to the number of predictions.
    pub bos: Option<Bos>,
    /// Tokens of the text by which windows advance, from 1 to `seq_len`; `None` for windows that
    /// follow each other. With fewer than a window has, windows overlap: all predictions of the first
    /// one are scored, and in others those of tokens that no earlier window had. The last window ends
    /// with the text, and may be shorter. Every token is then predicted from at least
    /// `seq_len - stride` others, as in the documentation of transformers on perplexity. Not with a
    /// `skip`, and not with saved logits.
    pub stride: Option<usize>,
    /// The number of windows computed at the same time, each on its own thread. CPU backends run
    /// elementwise operations on one thread, so a second window keeps the other cores busy; a GPU
    /// needs only one.
    pub at_once: NonZeroUsize,
}

impl Default for PerplexityOptions {
    /// Windows of 512 tokens that follow each other, all that the text fills, every prediction
    /// scored, one window at a time. Nothing is put before the text.
    fn default() -> Self {
        Self {
            seq_len: 512,
            windows: None,
            skip: 0,
            bos: None,
            stride: None,
            at_once: NonZeroUsize::MIN,
        }
    }
}

impl PerplexityOptions {
    /// The number of predictions of a window that are scored, of the first one where windows overlap;
    /// 0 if there are none.
    pub fn scored(&self) -> usize {
        self.seq_len.saturating_sub(1).saturating_sub(self.skip)
    }

    /// The number of windows that are read of a text.
    ///
    /// # Panics
    ///
    /// Panics if `seq_len` is below 2.
    pub fn windows_of(&self, tokens: &[u32]) -> usize {
        self.cut(tokens).len()
    }

    /// Whether windows overlap.
    fn overlaps(&self) -> bool {
        let of_bos = usize::from(matches!(self.bos, Some(Bos::Each(_))));
        self.stride.is_some_and(|stride| stride < self.seq_len.saturating_sub(of_bos))
    }

    /// The windows of a text.
    ///
    /// # Panics
    ///
    /// Panics if `seq_len` is below 2.
    pub(super) fn cut<'a>(&self, tokens: &'a [u32]) -> Windows<'a> {
        let cut = TextWindows::new(tokens, self.bos, self.seq_len);
        let cut = match self.stride {
            Some(stride) => cut.with_stride(stride),
            None => cut,
        };
        let count = cut.count().min(self.windows.unwrap_or(usize::MAX));
        Windows { cut, count, skip: self.skip }
    }
}

/// The windows of a text that are read. A window is made when it is its turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Windows<'a> {
    cut: TextWindows<'a>,
    count: usize,
    skip: usize,
}

impl Windows<'_> {
    /// Number of windows.
    pub fn len(&self) -> usize {
        self.count
    }

    /// A window.
    pub fn get(&self, index: usize) -> Window {
        let window = self.cut.get(index);
        // Nothing predicts the first token of a window.
        let skip = self.skip.max(window.known.saturating_sub(1));
        Window { tokens: window.tokens, skip }
    }

    /// All windows, one after the other.
    pub fn iter(&self) -> impl Iterator<Item = Window> {
        (0..self.count).map(|index| self.get(index))
    }
}

/// A window, and which of its predictions are scored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub tokens: Vec<u32>,
    /// The number of predictions at its start that are not scored.
    pub skip: usize,
}

impl Window {
    /// The tokens whose predictions are scored.
    pub fn targets(&self) -> &[u32] {
        &self.tokens[self.skip + 1..]
    }
}

/// Why a text cannot be measured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A window that predicts nothing.
    #[error("a window needs at least 2 tokens, not {0}")]
    SeqLen(usize),
    /// No windows were asked for.
    #[error("at least 1 window is needed")]
    NoWindows,
    /// No prediction of a window is scored.
    #[error("a window of {seq_len} tokens has no prediction left to score after a skip of {skip}")]
    Skip {
        /// Predictions that are not scored.
        skip: usize,
        /// Tokens in a window.
        seq_len: usize,
    },
    /// Windows that advance by nothing, or leave out a part of the text.
    #[error(
        "windows of {seq_len} tokens cannot advance by {stride}; a stride is from 1 to {seq_len}"
    )]
    Stride {
        /// Tokens by which windows would advance.
        stride: usize,
        /// Tokens in a window.
        seq_len: usize,
    },
    /// A stride and a skip, both of which say what is scored.
    #[error("a stride and a skip both say which predictions are scored")]
    StrideAndSkip,
    /// Logits of windows that overlap are not saved.
    #[error("saved logits are of windows that do not overlap, so they have no stride")]
    StrideSaved,
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
    /// Two models that are compared do not have the same tokens.
    #[error("the model has a vocabulary of {vocab_size} tokens, the dense one of {dense}")]
    Vocabulary {
        /// Size of the model's vocabulary.
        vocab_size: usize,
        /// Size of the vocabulary of the dense model.
        dense: usize,
    },
    /// The loss of a window is infinite or not a number.
    #[error("the loss of window {} is not finite", window + 1)]
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
pub(super) const LOGITS_AT_ONCE: usize = 1 << 25;

/// Checks that a text can be measured: that it fills a window, that a prediction of it is scored,
/// that a window fits the model's context, and that the model knows its tokens.
///
/// # Errors
///
/// [`EvalError`], as [`perplexity`](fn@super::perplexity) would return it.
pub fn check_text(
    model: &impl LanguageModel,
    tokens: &[u32],
    options: &PerplexityOptions,
) -> Result<(), EvalError> {
    let PerplexityOptions { seq_len, windows, skip, bos, stride, .. } = *options;
    let context = model.context();
    if seq_len < 2 {
        return Err(EvalError::SeqLen(seq_len));
    }
    if windows == Some(0) {
        return Err(EvalError::NoWindows);
    }
    if seq_len > context {
        return Err(EvalError::Context { seq_len, context });
    }
    if options.scored() == 0 {
        return Err(EvalError::Skip { skip, seq_len });
    }
    match stride {
        Some(stride) if stride == 0 || stride > seq_len => {
            return Err(EvalError::Stride { stride, seq_len });
        }
        Some(_) if skip > 0 => return Err(EvalError::StrideAndSkip),
        _ => {}
    }
    if options.windows_of(tokens) == 0 {
        return Err(EvalError::TooShort { tokens: tokens.len(), seq_len });
    }
    let vocab_size = model.vocab_size();
    let put = bos.map(Bos::token);
    match tokens.iter().chain(&put).find(|token| **token as usize >= vocab_size) {
        Some(token) => Err(EvalError::UnknownToken { token: *token, vocab_size }),
        None => Ok(()),
    }
}

/// Refuses windows that overlap, where logits are saved: those of a token would be there several
/// times.
pub(super) fn check_saved(options: &PerplexityOptions) -> Result<(), EvalError> {
    if options.overlaps() { Err(EvalError::StrideSaved) } else { Ok(()) }
}

/// What `work` makes of every window, in order; it gets the window's number and the window. An error
/// ends the work early.
pub(super) fn each_window<T: Send, E: From<Interrupted> + Send>(
    windows: &Windows<'_>,
    threads: NonZeroUsize,
    work: impl Fn(usize, &Window) -> Result<T, E> + Sync,
    progress: &mut dyn Progress,
) -> Result<Vec<T>, E> {
    let mut found: Vec<Option<T>> = (0..windows.len()).map(|_| None).collect();
    Workers::new(threads).try_spread(
        windows.len(),
        |index| work(index, &windows.get(index)),
        |index, result| {
            found[index] = Some(result);
            Ok(progress.step(&format!("window {}", index + 1))?)
        },
    )?;
    Ok(found.into_iter().flatten().collect())
}

/// Hidden states that the scored predictions of a window are made from, ready for the head,
/// `[scored, width]`.
pub(super) fn scored_hidden(model: &impl LanguageModel, window: &Window) -> Tensor<2> {
    let hidden = model.hidden(as_tensor(&window.tokens, &device_of(model))).squeeze_dim::<2>(0);
    hidden.narrow(0, window.skip, window.targets().len())
}
