//! How far a model's predictions are from those of another one, token by token.

use burn::tensor::FloatDType;
use rayon::prelude::*;

use super::estimate::{Estimate, Spread, correlation};
use super::perplexity::Perplexity;
use super::windows::{
    EvalError, LOGITS_AT_ONCE, PerplexityOptions, Window, check_text, each_window, scored_hidden,
};
use crate::model::{LanguageModel, logit_pieces};
use crate::progress::Progress;

/// How a model predicts a text in comparison with the dense model that it was made from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// Mean over the scored tokens of the Kullback-Leibler divergence
    /// `Σ p (ln p − ln q)`, in nats. `p` is the dense model's distribution over the whole
    /// vocabulary, `q` the model's. 0 only where they are the same.
    pub kl: Estimate,
    /// How that divergence is distributed over the tokens.
    pub spread: Spread,
    /// Share of the tokens for which both models think the same token the most likely one; of
    /// several, the one with the lowest number.
    pub same_top: Estimate,
    /// Perplexity of the model.
    pub model: Perplexity,
    /// Perplexity of the dense model.
    pub dense: Perplexity,
    /// The natural logarithm of the ratio of the perplexities, the model's over the dense one's. Its
    /// standard error is much smaller than those of the perplexities, because the same tokens are
    /// hard for both models.
    pub log_ratio: Estimate,
    /// Correlation of both models' losses over the tokens; NaN if one of them is constant.
    pub correlation: f64,
    /// Mean change of the probability of the right token, the model's less the dense one's.
    pub probability_change: Estimate,
    /// Root of the mean of the square of that change.
    pub probability_change_rms: Estimate,
}

impl Divergence {
    /// The ratio of the perplexities, the model's over the dense one's.
    pub fn ratio(&self) -> Estimate {
        self.log_ratio.exp()
    }

    /// Of at least one token.
    fn of(tokens: &[Scored], windows: usize) -> Self {
        let mean = |of: fn(&Scored) -> f64| Estimate::mean(tokens.iter().map(of));
        let perplexity = |of: fn(&Scored) -> f64| {
            Perplexity::of(tokens.iter().map(of).sum(), tokens.len(), windows)
        };
        Self {
            kl: mean(|token| token.kl),
            spread: Spread::of(tokens.iter().map(|token| token.kl)),
            same_top: mean(|token| f64::from(token.same_top)),
            model: perplexity(|token| token.nll),
            dense: perplexity(|token| token.dense_nll),
            log_ratio: mean(|token| token.nll - token.dense_nll),
            correlation: correlation(tokens.iter().map(|token| (token.nll, token.dense_nll))),
            probability_change: mean(Scored::change),
            probability_change_rms: mean(|token| token.change() * token.change()).sqrt(),
        }
    }
}

/// How both models predict a token.
#[derive(Debug, Clone, Copy)]
struct Scored {
    kl: f64,
    /// Negative log-likelihoods.
    nll: f64,
    dense_nll: f64,
    same_top: bool,
}

impl Scored {
    /// The change of the probability of the right token.
    fn change(&self) -> f64 {
        (-self.nll).exp() - (-self.dense_nll).exp()
    }

    fn is_finite(&self) -> bool {
        self.kl.is_finite() && self.nll.is_finite() && self.dense_nll.is_finite()
    }
}

/// What is known of a distribution without its logits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// Negative log-likelihood of the right token.
    pub nll: f64,
    /// The most likely token.
    pub top: usize,
}

/// Logits of the dense model for some predictions that follow each other, row after row.
pub(super) struct Piece {
    pub logits: Vec<f32>,
    /// One for each row if the logits are rounded; otherwise empty.
    pub known: Vec<Known>,
}

/// Where the dense model's logits come from.
pub(super) trait Dense: Sync {
    /// The logits of the scored predictions of a window, which has this number and these tokens, in
    /// the pieces in which [`logit_pieces`] makes those of a model.
    fn pieces(
        &self,
        index: usize,
        window: &Window,
        logits_at_once: usize,
    ) -> impl Iterator<Item = Piece>;

    /// A window is done.
    fn release(&self, _index: usize) {}
}

/// A model that is in memory.
struct Live<'a, M>(&'a M);

impl<M: LanguageModel> Dense for Live<'_, M> {
    fn pieces(
        &self,
        _index: usize,
        window: &Window,
        logits_at_once: usize,
    ) -> impl Iterator<Item = Piece> {
        host_logits(self.0, window, logits_at_once)
            .map(|logits| Piece { logits, known: Vec::new() })
    }
}

/// The logits of the scored predictions of a window, in pieces.
pub(super) fn host_logits<M: LanguageModel>(
    model: &M,
    window: &Window,
    logits_at_once: usize,
) -> impl Iterator<Item = Vec<f32>> {
    logit_pieces(model, scored_hidden(model, window), logits_at_once).map(|logits| {
        let logits = logits.cast(FloatDType::F32);
        logits.into_data().try_into_vec::<f32>().expect("it was cast")
    })
}

/// Compares the predictions of a model with those of the dense model that it was made from, on the
/// same windows as [`perplexity`](fn@super::perplexity) and on every scored token of them.
///
/// Logits are f32 as the models compute them, everything else is f64. They exist for a part of a
/// window at a time, on as many threads as `at_once` says; both models are in memory.
///
/// llama.cpp's `llama-perplexity --kl-divergence` computes the same from logits that it has rounded
/// to 16 bits. It leaves tokens out of the sum that the dense model gives a probability below e⁻¹⁶,
/// and scores the second half of each window: `skip` of half of `seq_len`.
///
/// # Errors
///
/// [`EvalError`]; [`EvalError::Vocabulary`] if one vocabulary is larger than the other.
pub fn divergence<M: LanguageModel, D: LanguageModel>(
    model: &M,
    dense: &D,
    tokens: &[u32],
    options: &PerplexityOptions,
    progress: &mut dyn Progress,
) -> Result<Divergence, EvalError> {
    check_text(model, tokens, options)?;
    check_text(dense, tokens, options)?;
    let (vocab_size, dense_size) = (model.vocab_size(), dense.vocab_size());
    if vocab_size != dense_size {
        return Err(EvalError::Vocabulary { vocab_size, dense: dense_size });
    }
    compare(model, &Live(dense), tokens, options, LOGITS_AT_ONCE, progress)
}

/// The divergence on a text that was checked.
pub(super) fn compare<M: LanguageModel>(
    model: &M,
    dense: &impl Dense,
    tokens: &[u32],
    options: &PerplexityOptions,
    logits_at_once: usize,
    progress: &mut dyn Progress,
) -> Result<Divergence, EvalError> {
    let windows = options.cut(tokens);
    progress.begin("divergence", windows.len());
    let work = |index: usize, window: &Window| {
        let mut scored = Vec::with_capacity(window.targets().len());
        let own = host_logits(model, window, logits_at_once);
        for (logits, piece) in own.zip(dense.pieces(index, window, logits_at_once)) {
            let targets = &window.targets()[scored.len()..];
            scored.extend(score(&logits, &piece, targets, model.vocab_size()));
        }
        dense.release(index);
        match scored.iter().all(Scored::is_finite) {
            true => Ok(scored),
            false => Err(EvalError::NotFinite { window: index }),
        }
    };
    let scored = each_window(&windows, options.at_once, work, progress)?;
    Ok(Divergence::of(&scored.concat(), windows.len()))
}

/// Scores the predictions of a piece. There may be more targets than rows.
fn score(logits: &[f32], dense: &Piece, targets: &[u32], vocab_size: usize) -> Vec<Scored> {
    // Each row by itself, so that a sum does not depend on how many threads there are.
    let rows = logits.par_chunks(vocab_size).zip(dense.logits.par_chunks(vocab_size));
    let scored = rows.enumerate().map(|(row, (own, dense_row))| {
        score_row(own, dense_row, targets[row] as usize, dense.known.get(row).copied())
    });
    scored.collect()
}

fn score_row(own: &[f32], dense: &[f32], target: usize, known: Option<Known>) -> Scored {
    let (top, most) = largest(own);
    let (dense_top, dense_most) = largest(dense);
    let (most, dense_most) = (f64::from(most), f64::from(dense_most));
    let (mut sum, mut dense_sum, mut distance) = (0.0f64, 0.0f64, 0.0f64);
    for (q, p) in own.iter().zip(dense) {
        let (q, p) = (f64::from(*q) - most, f64::from(*p) - dense_most);
        let weight = p.exp();
        sum += q.exp();
        dense_sum += weight;
        // What the dense model thinks impossible adds nothing, also if its logit is infinite.
        if weight != 0.0 {
            distance += weight * (p - q);
        }
    }
    let (log_sum, dense_log_sum) = (sum.ln(), dense_sum.ln());
    let kl = distance / dense_sum + (log_sum - dense_log_sum);
    // It is never negative but for rounding. Not `max`, which hides what is not a number.
    let kl = if kl < 0.0 { 0.0 } else { kl };
    let nll = log_sum - (f64::from(own[target]) - most);
    let known = known.unwrap_or(Known {
        nll: dense_log_sum - (f64::from(dense[target]) - dense_most),
        top: dense_top,
    });
    Scored { kl, nll, dense_nll: known.nll, same_top: top == known.top }
}

/// The place of the first of the largest entries of a row, and its value.
pub(super) fn largest(row: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::NEG_INFINITY);
    for (place, value) in row.iter().enumerate() {
        if *value > best.1 {
            best = (place, *value);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::path::Path;

    use burn::tensor::Device;

    use super::*;
    use crate::model::{Decoder, load_model};

    fn model(name: &str) -> Decoder {
        let fixtures = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures"));
        let dir = fixtures.join(name);
        load_model(dir, &Device::default(), FloatDType::F32, &mut ()).unwrap().model
    }

    #[test]
    fn pieces_give_what_all_logits_at_once_give() {
        let (own, dense) = (model("tiny-mistral"), model("tiny-llama3"));
        assert_eq!(own.vocab_size(), dense.vocab_size());
        let tokens: Vec<u32> = (0..75).map(|i| (i * i + 3 * i) % 64).collect();
        let at_once = NonZeroUsize::new(2).unwrap();
        for skip in [0, 6] {
            let options = PerplexityOptions { seq_len: 25, skip, at_once, ..Default::default() };
            let in_pieces =
                |logits| compare(&own, &Live(&dense), &tokens, &options, logits, &mut ()).unwrap();
            let whole = in_pieces(1 << 25);
            assert!(whole.kl.value > 0.0 && whole.model.tokens == 3 * (24 - skip));
            // One row at a time, pieces of five, and pieces of seven with a rest.
            for logits in [1, 5 * 64, 7 * 64 + 63] {
                let got = in_pieces(logits);
                assert!((got.kl.value / whole.kl.value - 1.0).abs() < 1e-5, "{got:?}");
                assert!((got.model.nll / whole.model.nll - 1.0).abs() < 1e-5, "{got:?}");
                assert!((got.spread.maximum / whole.spread.maximum - 1.0).abs() < 1e-4);
                assert_eq!(got.same_top, whole.same_top);
            }
        }
    }

    #[test]
    fn impossible_tokens_add_nothing_and_what_is_not_a_number_is_noticed() {
        let never = f32::NEG_INFINITY;
        let sum = |own: &[f32], dense: &[f32]| score_row(own, dense, 0, None).kl;
        // p = (1/2, 1/2, 0), q = (1/3, 1/3, 1/3): ln (3/2).
        assert!((sum(&[7.0; 3], &[1.0, 1.0, never]) - 1.5f64.ln()).abs() < 1e-15);
        assert_eq!(sum(&[0.0, 0.0, never], &[0.0; 3]), f64::INFINITY);
        assert!(sum(&[0.0, f32::NAN, 0.0], &[0.0; 3]).is_nan());
        assert!(sum(&[0.0; 3], &[0.0, f32::NAN, 0.0]).is_nan());
        // Neither underflow nor overflow, for logits of any size.
        let far = sum(&[3e4, -3e4], &[-3e4, 3e4]);
        assert!((far - 6e4).abs() < 1e-9, "{far}");
    }
}
