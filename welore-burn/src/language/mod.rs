//! What evaluation and training need of a language model.

mod cross_entropy;

use burn::module::Module;
use burn::tensor::{Int, Tensor};

pub(crate) use cross_entropy::{cross_entropy, leaf};

/// A causal language model: an embedding, blocks one after the other, an end, and a head.
///
/// The blocks are apart so that training can compute them again instead of storing what they
/// computed, the head because logits of all tokens at once are the largest tensor of all and
/// nobody needs them whole.
pub trait LanguageModel: Module + Sync {
    /// What the blocks of one pass share, such as position tables and masks.
    type Pass: Send + Sync;

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

    /// What comes between the last block and the head.
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

    /// Number of tokens the model knows.
    fn vocab_size(&self) -> usize;

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
