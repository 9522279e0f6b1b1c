use super::windows::{
    EvalError, LOGITS_AT_ONCE, PerplexityOptions, Window, check_text, each_window, scored_hidden,
};
use crate::model::{LanguageModel, as_tensor, token_losses};
use crate::progress::Progress;

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
    /// Windows used.
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

/// Sum of the negative log-likelihoods of the scored tokens of a window.
fn nll_of(model: &impl LanguageModel, window: &Window) -> f64 {
    let hidden = scored_hidden(model, window);
    let targets = window.targets();
    let targets = as_tensor(targets, &hidden.device()).reshape([targets.len(), 1]);
    token_losses(model, hidden, targets, LOGITS_AT_ONCE)
        .map(|losses| losses.into_data().iter::<f64>().sum::<f64>())
        .sum()
}
