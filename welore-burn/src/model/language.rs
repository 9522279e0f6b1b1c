use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::modules::{MatrixName, Selection};

/// A causal language model: an embedding, blocks one after the other, an end, and a head.
///
/// The blocks are apart so that calibration can measure one at a time and training can compute
/// them again instead of storing what they computed; the head is apart because the logits of all
/// tokens at once are the largest tensor of all, and nobody needs them whole.
///
/// Layers that are to be compressed are [`LowRankLinear`](crate::linear::LowRankLinear).
pub trait LanguageModel: Module + Sync {
    /// What the blocks of one pass share, such as position tables and masks.
    type Pass: Send + Sync;

    /// What is kept of the tokens seen so far while a text is generated. A model that has no way
    /// to keep anything takes a [`TokenCache`](super::TokenCache).
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

    /// Number of tokens that the model knows.
    fn vocab_size(&self) -> usize;

    /// Longest context that the model was made for, in tokens.
    fn context(&self) -> usize;

    /// The matrices that can be compressed, in the order of the model.
    fn matrices(&self) -> Vec<ModelMatrix>;

    /// A cache that has seen nothing.
    fn cache(&self) -> Self::Cache;

    /// Hidden states of tokens that continue what is cached, ready for the head; the cache grows
    /// by them.
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

/// A matrix of a language model that can be compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelMatrix {
    /// Its name; the path of its weight is that with `.weight`.
    pub name: MatrixName,
    /// Number of the block that it is in.
    pub block: usize,
    /// Whether its output is added to the residual stream, which the block hands on.
    pub writes_residual: bool,
}

/// The matrices of a language model that can be compressed, as a selection.
pub fn projections(model: &impl LanguageModel) -> Selection {
    let names = model.matrices().into_iter().map(|matrix| escaped(matrix.name.as_str()));
    Selection::of(names).expect("names are valid patterns")
}

/// A name as a pattern that matches nothing else.
fn escaped(name: &str) -> String {
    name.chars().fold(String::new(), |mut pattern, c| {
        match c {
            '*' | '?' | '[' | ']' | '{' | '}' | '\\' => pattern.extend(['[', c, ']']),
            c => pattern.push(c),
        }
        pattern
    })
}

/// The device that a module is on.
///
/// # Panics
///
/// Panics if it has no parameters.
pub fn device_of(module: &impl Module) -> Device {
    module.devices().into_iter().next().expect("a module with parameters is on a device")
}

/// Tokens as a batch of one, `[1, positions]`.
pub(crate) fn as_tensor(tokens: &[u32], device: &Device) -> Tensor<2, Int> {
    let tokens: Vec<i32> = tokens.iter().map(|token| *token as i32).collect();
    let len = tokens.len();
    Tensor::from_data(TensorData::new(tokens, [1, len]), device)
}
