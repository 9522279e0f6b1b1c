//! What evaluation and training need of a language model.

use burn::module::Module;
use burn::tensor::{Int, Tensor};

/// A causal language model: hidden states first, logits from them apart, because logits of
/// all tokens at once are the largest tensor of all and nobody needs them whole.
pub trait LanguageModel: Module + Sync {
    /// Hidden states of every position, ready for the head.
    ///
    /// # Shapes
    ///
    /// - tokens: `[batch, positions]`
    /// - output: `[batch, positions, width]`
    fn hidden(&self, tokens: Tensor<2, Int>) -> Tensor<3>;

    /// Logits of hidden states.
    ///
    /// # Shapes
    ///
    /// - hidden: `[batch, positions, width]`
    /// - output: `[batch, positions, vocab_size]`
    fn logits(&self, hidden: Tensor<3>) -> Tensor<3>;

    /// Number of tokens the model knows.
    fn vocab_size(&self) -> usize;
}
