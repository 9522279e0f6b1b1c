use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::clip::scale;
use crate::data::TokenRow;
use crate::model::{LanguageModel, cross_entropy, leaf, token_losses};

/// Rows of tokens as tensors. Short rows are padded at the end, where causal attention hides the
/// padding from all tokens; only tokens to predict have a target.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[rows, positions]`.
    tokens: Tensor<2, Int>,
    /// Indices of the positions that predict, counted over all rows, `[targets]`.
    places: Tensor<1, Int>,
    /// The tokens to predict there, `[targets, 1]`.
    targets: Tensor<2, Int>,
}

impl Batch {
    /// Puts rows on a device.
    pub fn new(rows: &[TokenRow<'_>], device: &Device) -> Self {
        let positions = rows.iter().map(|row| row.tokens.len()).max().unwrap_or(0);
        let mut tokens = vec![0i32; rows.len() * positions];
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (number, row) in rows.iter().enumerate() {
            let start = number * positions;
            for (place, token) in row.tokens.iter().enumerate() {
                tokens[start + place] = *token as i32;
            }
            for place in row.places() {
                places.push((start + place - 1) as i32);
                targets.push(row.tokens[place] as i32);
            }
        }
        let count = targets.len();
        Self {
            tokens: Tensor::from_data(TensorData::new(tokens, [rows.len(), positions]), device),
            places: Tensor::from_data(TensorData::new(places, [count]), device),
            targets: Tensor::from_data(TensorData::new(targets, [count, 1]), device),
        }
    }

    /// Number of tokens to predict.
    pub fn targets(&self) -> usize {
        let [targets] = self.places.dims();
        targets
    }

    /// The hidden states that predict, `[batch, positions, width]` to `[targets, width]`.
    fn predicting(&self, hidden: Tensor<3>) -> Tensor<2> {
        let [batch, positions, width] = hidden.dims();
        hidden.reshape([batch * positions, width]).select(0, self.places.clone())
    }
}

/// How a backward pass trades memory for time. Changes only the order of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Store only the input of each block, and recompute the rest for its backward pass.
    pub recompute: bool,
    /// Number of logits in memory at once, 4 bytes each; the backward pass holds three tensors of
    /// this size.
    pub logits_at_once: usize,
}

impl Default for MemoryOptions {
    /// No recomputation, and 17 MB of logits, which stay in the cache of a CPU.
    fn default() -> Self {
        Self { recompute: false, logits_at_once: 1 << 22 }
    }
}

/// Sum of the token cross-entropies of a batch, each times `share`, and its gradients with respect
/// to all trainable parameters. With `share = 1 / targets` it is the mean.
///
/// Logits never exist for all tokens at once: the head runs forward and backward over pieces of the
/// hidden states, detached from the rest of the model. The gradient of the hidden states then goes
/// back through the rest, all at once or, with [`MemoryOptions::recompute`], block by block.
///
/// A model that computes in f16 passes gradients back as if `share` were 1, and they are scaled
/// once they are f32 again: most shares are below the smallest f16.
///
/// The batch must be on the model's autodiff device.
pub fn loss_and_gradients<M: LanguageModel>(
    model: &M,
    batch: &Batch,
    share: f64,
    memory: MemoryOptions,
) -> (Tensor<1>, GradientsParams) {
    let MemoryOptions { recompute, logits_at_once } = memory;
    let gradients = GradientsAccumulator::new();
    let mut pass = BackwardPass { model, logits_at_once, share, later: 1.0, gradients };
    let loss = if recompute { pass.recomputed(batch) } else { pass.stored(batch) };
    let gradients = pass.gradients.grads();
    let gradients = match pass.later {
        1.0 => gradients,
        later => scale(model, gradients, later),
    };
    (loss, gradients)
}

/// Cross-entropy of every token to predict in a batch, `[targets]`, without gradients. The head
/// runs over `logits_at_once` logits at a time.
pub fn losses<M: LanguageModel>(model: &M, batch: &Batch, logits_at_once: usize) -> Tensor<1> {
    let hidden = batch.predicting(model.hidden(batch.tokens.clone()));
    let pieces = token_losses(model, hidden, batch.targets.clone(), logits_at_once);
    Tensor::cat(pieces.collect(), 0).squeeze_dim(1)
}

/// A backward pass in pieces, with the parameters' gradients so far.
struct BackwardPass<'a, M> {
    model: &'a M,
    logits_at_once: usize,
    /// The weight of each token's loss.
    share: f64,
    /// The part of it that gradients are multiplied by at the end.
    later: f64,
    gradients: GradientsAccumulator<M>,
}

impl<M: LanguageModel> BackwardPass<'_, M> {
    fn stored(&mut self, batch: &Batch) -> Tensor<1> {
        let hidden = batch.predicting(self.model.hidden(batch.tokens.clone()));
        let (loss, gradient) = self.head(hidden.clone(), batch);
        self.back(hidden, gradient, None);
        loss
    }

    fn recomputed(&mut self, batch: &Batch) -> Tensor<1> {
        let model = self.model;
        let (embedded, pass) = model.begin(batch.tokens.clone());
        let mut inputs = Vec::new();
        {
            let plain = model.valid();
            let (mut x, pass) = plain.begin(batch.tokens.clone().inner());
            for index in 0..plain.blocks() {
                inputs.push(x.clone());
                x = plain.block(index, x, &pass);
            }
            inputs.push(x);
        }
        let end = leaf(inputs.pop().expect("the end has an input"));
        let hidden = batch.predicting(model.end(end.clone()));
        let (loss, gradient) = self.head(hidden.clone(), batch);
        let mut gradient = self.back(hidden, gradient, Some(&end)).expect("the end is a leaf");
        for (index, input) in inputs.into_iter().enumerate().rev() {
            let input = leaf(input);
            let output = model.block(index, input.clone(), &pass);
            gradient = self.back(output, gradient, Some(&input)).expect("the input is a leaf");
        }
        self.back(embedded, gradient, None);
        loss
    }

    /// Loss of the hidden states `[targets, width]`, and its gradient with respect to them.
    fn head(&mut self, hidden: Tensor<2>, batch: &Batch) -> (Tensor<1>, Tensor<2>) {
        let rows = batch.targets();
        let hidden = hidden.inner();
        if hidden.dtype() == DType::F16 {
            self.later = self.share;
        }
        let now = self.share / self.later;
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        let most = (self.logits_at_once / self.model.vocab_size()).clamp(1, rows.max(1));
        // Pieces of about equal size, without a small one at the end.
        let most = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
        for start in (0..rows).step_by(most) {
            let len = most.min(rows - start);
            let piece = leaf(hidden.clone().narrow(0, start, len));
            let logits = self.model.logits(piece.clone().unsqueeze_dim::<3>(0)).squeeze_dim::<2>(0);
            let targets = batch.targets.clone().narrow(0, start, len);
            let (loss, gradient) = cross_entropy(logits.clone().inner(), targets.inner(), now);
            losses.push(loss);
            let mut backward = (logits * Tensor::from_inner(gradient)).sum().backward();
            gradients.push(piece.grad_remove(&mut backward).expect("the piece is a leaf"));
            self.collect(GradientsParams::from_grads(backward, self.model));
        }
        (Tensor::cat(losses, 0).sum().mul_scalar(self.share), Tensor::cat(gradients, 0))
    }

    /// Passes the gradient of an output back to the parameters, and returns that of `input`.
    fn back<const D: usize>(
        &mut self,
        output: Tensor<D>,
        gradient: Tensor<D>,
        input: Option<&Tensor<3>>,
    ) -> Option<Tensor<3>> {
        if !output.is_tracked() {
            // Nothing below trains, for example if the embedding is frozen.
            return None;
        }
        let mut backward = (output * Tensor::from_inner(gradient)).sum().backward();
        let gradient = input.and_then(|input| input.grad_remove(&mut backward));
        self.collect(GradientsParams::from_grads(backward, self.model));
        gradient
    }

    fn collect(&mut self, gradients: GradientsParams) {
        self.gradients.accumulate(self.model, gradients);
    }
}
