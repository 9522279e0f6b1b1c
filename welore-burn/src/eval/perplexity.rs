use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::language::LanguageModel;
use crate::progress::{Interrupted, Progress};
use crate::workers::Workers;

/// How perplexity is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerplexityOptions {
    /// Tokens in a block; at least 2.
    pub seq_len: usize,
    /// Most blocks to use; `None` is all that the text fills.
    pub blocks: Option<usize>,
    /// Blocks computed at once, each by a thread of its own. CPU backends run elementwise
    /// operations on one thread, so a second block keeps the other cores busy; a GPU is kept
    /// busy by one.
    pub at_once: NonZeroUsize,
}

/// A measured perplexity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perplexity {
    /// `exp(nll / tokens)`.
    pub perplexity: f64,
    /// Sum of the negative log-likelihoods of all targets, in nats.
    pub nll: f64,
    /// Predicted targets: `blocks * (seq_len - 1)`.
    pub tokens: usize,
    /// Blocks used.
    pub blocks: usize,
}

/// Why perplexity cannot be measured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvalError {
    /// A block that predicts nothing.
    #[error("a block needs at least 2 tokens, {0} were asked for")]
    SeqLen(usize),
    /// No block asked for.
    #[error("at least 1 block is needed")]
    NoBlocks,
    /// Longer blocks than the model can see.
    #[error("blocks of {seq_len} tokens are longer than the model's context of {context}")]
    Context {
        /// Tokens in a block.
        seq_len: usize,
        /// The model's context.
        context: usize,
    },
    /// Not even one block of text.
    #[error("the text has {tokens} tokens, which do not fill one block of {seq_len}")]
    TooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens in a block.
        seq_len: usize,
    },
    /// A token the model does not know.
    #[error(
        "token {token} is not in the model's vocabulary of {vocab_size}; is the tokenizer another model's?"
    )]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// The model computed something that is not a number.
    #[error("the loss of block {block} is not finite")]
    NotFinite {
        /// Number of the block, from 0.
        block: usize,
    },
    /// The user stopped the work.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Logits that exist at once, 134 MB of f32. The head's output is the largest tensor of a
/// forward pass by far, so it is made in pieces.
const LOGITS_AT_ONCE: usize = 1 << 25;

/// Terms that are summed in one go.
const GROUP: usize = 512;

/// Perplexity over consecutive blocks: the text is cut into blocks of `seq_len` tokens, each
/// is read from its start, every token but the first is predicted, and the mean negative
/// log-likelihood over all targets is exponentiated. A rest that fills no block is left out.
///
/// Logits and their log-sum-exp are f32 as the model computes them; sums are f64.
///
/// # Errors
///
/// [`EvalError`].
pub fn perplexity(
    model: &impl LanguageModel,
    tokens: &[u32],
    context: usize,
    options: &PerplexityOptions,
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<Perplexity, EvalError> {
    let seq_len = options.seq_len;
    check_text(model, tokens, context, options)?;
    let blocks = (tokens.len() / seq_len).min(options.blocks.unwrap_or(usize::MAX));
    let blocks: Vec<&[u32]> = tokens.chunks_exact(seq_len).take(blocks).collect();
    progress.begin("perplexity", blocks.len());
    let losses =
        in_threads(&blocks, options.at_once, |block| nll_of(model, block, device), progress)?;
    if let Some(block) = losses.iter().position(|nll| !nll.is_finite()) {
        return Err(EvalError::NotFinite { block });
    }
    let (nll, blocks) = (losses.iter().sum::<f64>(), blocks.len());
    let targets = blocks * (seq_len - 1);
    Ok(Perplexity { perplexity: (nll / targets as f64).exp(), nll, tokens: targets, blocks })
}

/// The loss of every block, in order. An interruption or a loss that is not finite ends the
/// work early.
fn in_threads(
    blocks: &[&[u32]],
    threads: NonZeroUsize,
    loss: impl Fn(&[u32]) -> f64 + Sync,
    progress: &mut dyn Progress,
) -> Result<Vec<f64>, Interrupted> {
    let mut losses = vec![0.0; blocks.len()];
    let mut outcome = Ok(());
    Workers::new(threads).spread(
        blocks.len(),
        |index| loss(blocks[index]),
        |index, nll| {
            losses[index] = nll;
            if outcome.is_ok() {
                outcome = progress.step(&format!("block {}", index + 1));
            }
            match outcome.is_ok() && nll.is_finite() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        },
    );
    outcome.map(|()| losses)
}

/// Checks that perplexity can be measured: that the text fills a block, that a block fits the
/// model's context, and that the model knows its tokens.
///
/// # Errors
///
/// [`EvalError`], as [`perplexity`] would give it.
pub fn check_text(
    model: &impl LanguageModel,
    tokens: &[u32],
    context: usize,
    options: &PerplexityOptions,
) -> Result<(), EvalError> {
    let seq_len = options.seq_len;
    if seq_len < 2 {
        return Err(EvalError::SeqLen(seq_len));
    }
    if options.blocks == Some(0) {
        return Err(EvalError::NoBlocks);
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

/// Sum of the negative log-likelihoods of all tokens of a block but the first.
fn nll_of(model: &impl LanguageModel, block: &[u32], device: &Device) -> f64 {
    let ids: Vec<i32> = block.iter().map(|token| *token as i32).collect();
    let len = ids.len();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, len]), device);
    let hidden = model.hidden(ids.clone());
    let targets = ids.reshape([len, 1]);
    let mut sum = 0.0;
    let most_rows = (LOGITS_AT_ONCE / model.vocab_size()).max(1);
    for start in (0..len - 1).step_by(most_rows) {
        let rows = most_rows.min(len - 1 - start);
        let logits = model.logits(hidden.clone().narrow(1, start, rows)).squeeze_dim::<2>(0);
        let target = logits.clone().gather(1, targets.clone().narrow(0, start + 1, rows));
        let log_sum = log_sum_exp(logits);
        sum += (log_sum - target).into_data().iter::<f64>().sum::<f64>();
    }
    sum
}

/// `log Σ exp x` of every row, `[rows, n]` to `[rows, 1]`.
///
/// Uses `log Σ exp x = max x - log max softmax(x)`: softmax is one fused pass on every
/// backend, and its largest entry is at least `1/n`, so nothing underflows. It is taken over
/// groups first, because an f32 sum over a whole vocabulary rounds in the fourth digit.
fn log_sum_exp(x: Tensor<2>) -> Tensor<2> {
    let [rows, n] = x.dims();
    let groups = n.div_ceil(GROUP);
    // Filled up with terms that add nothing; every group has at least one of the row's own.
    let missing = groups * GROUP - n;
    let x = match missing {
        0 => x,
        _ => {
            let nothing = Tensor::full([rows, missing], f32::MIN, &x.device());
            Tensor::cat(vec![x, nothing], 1)
        }
    };
    let of_last = |x: Tensor<3>| x.clone().max_dim(2) - softmax(x, 2).max_dim(2).log();
    let of_groups = of_last(x.reshape([rows, groups, GROUP]));
    of_last(of_groups.reshape([rows, 1, groups])).reshape([rows, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_sum_exp_is_exact_for_any_length_and_any_scale() {
        let device = Device::default();
        for n in [1, 7, 512, 513, 1024, 32_001] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1000) as f32 / 50.0 - 300.0).collect();
            let terms = row.iter().map(|x| (f64::from(*x) + 300.0).exp()).sum::<f64>();
            let exact = terms.ln() - 300.0;
            let x = Tensor::<2>::from_data(TensorData::new(row, [1, n]), &device);
            let got = log_sum_exp(x).into_scalar::<f64>();
            // One unit of rounding at this size is 3e-5.
            assert!((got - exact).abs() < 1e-4, "{n}: {got} for {exact}");
        }
    }
}
