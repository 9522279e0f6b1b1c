use std::num::NonZeroUsize;

use burn::tensor::Tensor;

use super::windows::{
    EvalError, LOGITS_AT_ONCE, PerplexityOptions, Window, check_text, each_window, scored_hidden,
};
use crate::data::{TokenRow, TokenRows};
use crate::model::{LanguageModel, as_tensor, device_of, token_losses};
use crate::progress::Progress;
use crate::workers::Workers;

/// A measured perplexity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// `exp(nll / tokens)`.
    pub perplexity: f64,
    /// Sum of the negative log-likelihoods of all scored tokens, in nats.
    pub nll: f64,
    /// Number of scored tokens: `windows * (seq_len - 1 - skip)`, or, where windows overlap, all of the
    /// text but the first one if nothing was put before it.
    pub tokens: usize,
    /// Windows used, or rows.
    pub windows: usize,
}

impl Perplexity {
    /// Of the loss of some tokens.
    pub(super) fn of(nll: f64, tokens: usize, windows: usize) -> Self {
        Self { perplexity: (nll / tokens as f64).exp(), nll, tokens, windows }
    }
}

/// Perplexity over consecutive windows: the text is cut into windows of `seq_len` tokens, each is
/// read from its start, every token but the first is predicted, and the mean negative
/// log-likelihood over all predicted tokens is exponentiated, without those of the first `skip`
/// predictions of each window. Tokens at the end that do not fill a window are not used.
/// [`PerplexityOptions`] says what changes if windows begin with a token of their own, or overlap.
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
    check_text(model, tokens, options)?;
    let windows = options.cut(tokens);
    progress.begin("perplexity", windows.len());
    progress.count_in("windows");
    let loss = |index, window: &Window| match nll_of(model, window) {
        nll if nll.is_finite() => Ok((nll, window.targets().len())),
        _ => Err(EvalError::NotFinite { window: index }),
    };
    let losses = each_window(&windows, options.at_once, loss, progress)?;
    let nll = losses.iter().map(|(nll, _)| nll).sum::<f64>();
    let scored = losses.iter().map(|(_, scored)| scored).sum();
    Ok(Perplexity::of(nll, scored, windows.len()))
}

/// Perplexity over the tokens that rows predict, such as what the assistant says in conversations: each of
/// them is predicted from all of its row that precedes it. The first `most` rows are read, or all of them;
/// their number is [`Perplexity::windows`].
///
/// Logits and their log-sum-exp are f32 as the model computes them; sums are f64.
///
/// # Errors
///
/// [`EvalError`]; [`EvalError::NoWindows`] if there is no row to read.
pub fn perplexity_of_rows(
    model: &impl LanguageModel,
    rows: &TokenRows,
    most: Option<usize>,
    at_once: NonZeroUsize,
    progress: &mut dyn Progress,
) -> Result<Perplexity, EvalError> {
    check_rows_fit(model, rows)?;
    let count = rows.len().min(most.unwrap_or(usize::MAX));
    if count == 0 {
        return Err(EvalError::NoWindows);
    }
    progress.begin("perplexity", count);
    progress.count_in("rows");
    let mut losses = vec![(0.0, 0); count];
    let loss = |index: usize| {
        let row = rows.nth(index, None);
        match nll_of_row(model, &row) {
            nll if nll.is_finite() => Ok((nll, row.predicted())),
            _ => Err(EvalError::NotFinite { window: index }),
        }
    };
    Workers::new(at_once).try_spread(count, loss, |index, found| {
        losses[index] = found;
        Ok(progress.step(&format!("row {}", index + 1))?)
    })?;
    let nll = losses.iter().map(|(nll, _)| nll).sum::<f64>();
    let scored = losses.iter().map(|(_, scored)| scored).sum();
    Ok(Perplexity::of(nll, scored, count))
}

/// Checks that rows fit in a model's context, and that it knows their tokens.
///
/// # Errors
///
/// [`EvalError`], as [`perplexity_of_rows`] would return it.
pub fn check_rows_fit(model: &impl LanguageModel, rows: &TokenRows) -> Result<(), EvalError> {
    let (context, vocab_size) = (model.context(), model.vocab_size());
    let lengths = (0..rows.len()).map(|number| rows.nth(number, None).tokens.len());
    let seq_len = lengths.max().unwrap_or(0);
    if seq_len > context {
        return Err(EvalError::Context { seq_len, context });
    }
    match rows.tokens().iter().find(|token| **token as usize >= vocab_size) {
        Some(token) => Err(EvalError::UnknownToken { token: *token, vocab_size }),
        None => Ok(()),
    }
}

/// Sum of the negative log-likelihoods of the scored tokens of a window.
fn nll_of(model: &impl LanguageModel, window: &Window) -> f64 {
    nll_of_targets(model, scored_hidden(model, window), window.targets())
}

/// The same of the tokens that a row predicts.
fn nll_of_row(model: &impl LanguageModel, row: &TokenRow<'_>) -> f64 {
    let predicted = row.places().map(|place| (place as u32 - 1, row.tokens[place]));
    let (places, targets): (Vec<u32>, Vec<u32>) = predicted.unzip();
    let device = device_of(model);
    let hidden = model.hidden(as_tensor(row.tokens, &device)).squeeze_dim::<2>(0);
    let predicting = hidden.select(0, as_tensor(&places, &device).squeeze_dim::<1>(0));
    nll_of_targets(model, predicting, &targets)
}

/// The same of tokens, from the hidden states `[tokens, width]` that predict them.
fn nll_of_targets(model: &impl LanguageModel, hidden: Tensor<2>, targets: &[u32]) -> f64 {
    let targets = as_tensor(targets, &hidden.device()).reshape([targets.len(), 1]);
    token_losses(model, hidden, targets, LOGITS_AT_ONCE)
        .map(|losses| losses.into_data().iter::<f64>().sum::<f64>())
        .sum()
}
