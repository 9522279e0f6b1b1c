use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::llama::Llama;
use crate::progress::{Interrupted, Progress};

/// How perplexity is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerplexityOptions {
    /// Tokens in a block; at least 2.
    pub seq_len: usize,
    /// Most blocks to use; `None` is all that the text fills.
    pub blocks: Option<usize>,
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
    #[error("token {token} is not in the model's vocabulary of {vocab_size}; is the tokenizer another model's?")]
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

/// Rows of logits that exist at once. The head's output is the largest tensor of a forward
/// pass by far, so it is made in pieces.
const LOGIT_ROWS: usize = 128;

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
    model: &Llama,
    tokens: &[u32],
    context: usize,
    options: &PerplexityOptions,
    device: &Device,
    progress: &mut dyn Progress,
) -> Result<Perplexity, EvalError> {
    let seq_len = options.seq_len;
    check(model, tokens, context, options)?;
    let blocks = (tokens.len() / seq_len).min(options.blocks.unwrap_or(usize::MAX));
    progress.begin("perplexity", blocks);
    let mut nll = 0.0;
    for (index, block) in tokens.chunks_exact(seq_len).take(blocks).enumerate() {
        progress.step(&format!("block {}", index + 1))?;
        let block_nll = nll_of(model, block, device);
        if !block_nll.is_finite() {
            return Err(EvalError::NotFinite { block: index });
        }
        nll += block_nll;
    }
    let targets = blocks * (seq_len - 1);
    Ok(Perplexity {
        perplexity: (nll / targets as f64).exp(),
        nll,
        tokens: targets,
        blocks,
    })
}

fn check(
    model: &Llama,
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
fn nll_of(model: &Llama, block: &[u32], device: &Device) -> f64 {
    let ids: Vec<i32> = block.iter().map(|token| *token as i32).collect();
    let len = ids.len();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, len]), device);
    let hidden = model.model.forward(ids.clone(), None);
    let targets = ids.reshape([len, 1]);
    let mut sum = 0.0;
    for start in (0..len - 1).step_by(LOGIT_ROWS) {
        let rows = LOGIT_ROWS.min(len - 1 - start);
        let logits = model.logits(hidden.clone().narrow(1, start, rows)).squeeze_dim::<2>(0);
        let target = logits.clone().gather(1, targets.clone().narrow(0, start + 1, rows));
        let largest = logits.clone().max_dim(1);
        let log_sum = (logits - largest.clone()).exp().sum_dim(1).log() + largest;
        sum += (log_sum - target).into_data().iter::<f64>().sum::<f64>();
    }
    sum
}
