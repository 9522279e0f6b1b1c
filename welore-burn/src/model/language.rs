use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::modules::{MatrixName, Selection};

/// A causal language model: an embedding, a sequence of blocks, an end, and a head.
///
/// Blocks are separate so that calibration can measure one at a time and training can recompute
/// their activations instead of storing them. The head is separate because the logits of all tokens
/// are the largest tensor of all, and no caller needs them at once.
///
/// Layers to be compressed must be [`LowRankLinear`](crate::linear::LowRankLinear).
pub trait LanguageModel: Module + Sync {
    /// Data that the blocks of one pass share, such as position tables and masks.
    type Pass: Send + Sync;

    /// What generation keeps of the tokens seen so far. A model without a cache of its own uses a
    /// [`TokenCache`](super::TokenCache).
    type Cache: Send;

    /// Embeds tokens and prepares a pass over them.
    ///
    /// # Shapes
    ///
    /// - tokens: `[batch, positions]`
    /// - output: `[batch, positions, width]`
    fn begin(&self, tokens: Tensor<2, Int>) -> (Tensor<3>, Self::Pass);

    /// Number of blocks.
    fn blocks(&self) -> usize;

    /// Applies block number `index`.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, positions, width]`
    fn block(&self, index: usize, x: Tensor<3>, pass: &Self::Pass) -> Tensor<3>;

    /// Applies what comes between the last block and the head, such as a norm.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, positions, width]`
    fn end(&self, x: Tensor<3>) -> Tensor<3>;

    /// Logits of hidden states.
    ///
    /// # Shapes
    ///
    /// - hidden: `[batch, positions, width]`
    /// - output: `[batch, positions, vocab_size]`
    fn logits(&self, hidden: Tensor<3>) -> Tensor<3>;

    /// What the rows of embedding and head are multiplied by; 1 unless a model says otherwise.
    fn token_scales(&self) -> TokenScales {
        TokenScales::default()
    }

    /// Number of tokens in the vocabulary.
    fn vocab_size(&self) -> usize;

    /// Longest context that the model supports, in tokens.
    fn context(&self) -> usize;

    /// The matrices that can be compressed, in the model's order.
    fn matrices(&self) -> Vec<ModelMatrix>;

    /// An empty cache.
    fn cache(&self) -> Self::Cache;

    /// Forgets all cached positions but the first `positions`, and says whether it could. A model that cannot leaves
    /// the cache as it is, and what is to be kept is computed again.
    fn shorten_cache(&self, cache: &mut Self::Cache, positions: usize) -> bool {
        let _ = (cache, positions);
        false
    }

    /// Hidden states of `tokens`, which continue the cached ones, ready for the head. Adds them to
    /// the cache.
    ///
    /// # Shapes
    ///
    /// - tokens: `[batch, positions]`
    /// - output: `[batch, positions, width]`
    fn extend(&self, tokens: Tensor<2, Int>, cache: &mut Self::Cache) -> Tensor<3>;

    /// Hidden states of every position, ready for the head.
    ///
    /// # Shapes
    ///
    /// - tokens: `[batch, positions]`
    /// - output: `[batch, positions, width]`
    fn hidden(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let (x, pass) = self.begin(tokens);
        self.end((0..self.blocks()).fold(x, |x, index| self.block(index, x, &pass)))
    }
}

/// What a model multiplies rows of embedding and head by, and with them the errors of these rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScales {
    /// What rows of the embedding are multiplied by before the first block.
    pub embedding: f64,
    /// What products with rows of the head are multiplied by before they are logits.
    pub head: f64,
}

impl Default for TokenScales {
    fn default() -> Self {
        Self { embedding: 1.0, head: 1.0 }
    }
}

/// A matrix of a language model that can be compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelMatrix {
    /// Its name: the path of its weight without `.weight`.
    pub name: MatrixName,
    /// Number of its block, from 0.
    pub block: usize,
    /// Whether its output is added to the residual stream.
    pub writes_residual: bool,
}

/// A selection of the matrices of a language model that can be compressed.
pub fn projections(model: &impl LanguageModel) -> Selection {
    Selection::of_names(model.matrices().into_iter().map(|matrix| matrix.name.as_str().to_string()))
}

/// The device that a module is on.
///
/// # Panics
///
/// Panics if it has no parameters.
pub fn device_of(module: &impl Module) -> Device {
    module.devices().into_iter().next().expect("a module with parameters is on a device")
}

/// Tokens as a batch of one row, `[1, positions]`.
pub(crate) fn as_tensor(tokens: &[u32], device: &Device) -> Tensor<2, Int> {
    let tokens: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    let len = tokens.len();
    Tensor::from_data(TensorData::new(tokens, [1, len]), device)
}
