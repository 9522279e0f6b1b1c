use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};

use crate::language::LanguageModel;

/// Logits that exist at once, 34 MB of f32; backward holds a few copies of them.
const LOGITS_AT_ONCE: usize = 1 << 23;

/// Mean token cross-entropy of a batch, and the gradients of `share` times it with respect to
/// all trainable parameters. The loss itself is not scaled.
///
/// Every token but the first of a row is predicted. Logits never exist for all tokens at
/// once: the head runs forward and backward over pieces of the hidden states, cut off from
/// the body, and the body then gets the gradient of the hidden states in one go. This is
/// exact; only the order of sums differs.
///
/// # Shapes
///
/// - tokens: `[batch, positions]`, on the model's autodiff device
pub fn loss_and_gradients<M: LanguageModel>(
    model: &M,
    tokens: Tensor<2, Int>,
    share: f64,
) -> (Tensor<1>, GradientsParams) {
    let [batch, positions] = tokens.dims();
    let rows = batch * (positions - 1);
    let hidden = model.hidden(tokens.clone());
    let [_, _, width] = hidden.dims();
    let hidden = hidden.narrow(1, 0, positions - 1).reshape([rows, width]);
    let targets = tokens.narrow(1, 1, positions - 1).reshape([rows, 1]);

    let mut gradients = GradientsAccumulator::new();
    let mut hidden_gradients = Vec::new();
    let mut losses = Vec::new();
    let most = (LOGITS_AT_ONCE / model.vocab_size()).clamp(1, rows);
    for start in (0..rows).step_by(most) {
        let len = most.min(rows - start);
        let piece = hidden.clone().narrow(0, start, len).without_autodiff();
        let leaf = Tensor::from_inner(piece).require_grad();
        let logits = model.logits(leaf.clone().unsqueeze_dim::<3>(0)).squeeze_dim::<2>(0);
        let target = targets.clone().narrow(0, start, len);
        let loss = log_softmax(logits, 1).gather(1, target).sum().mul_scalar(-1.0 / rows as f64);
        losses.push(loss.clone().without_autodiff());
        let mut backward = loss.mul_scalar(share).backward();
        let of_leaf = leaf.grad_remove(&mut backward).expect("the leaf requires a gradient");
        hidden_gradients.push(of_leaf);
        gradients.accumulate(model, GradientsParams::from_grads(backward, model));
    }
    let loss = Tensor::cat(losses, 0).sum();
    if hidden.is_require_grad() || hidden.is_autodiff() {
        let weights = Tensor::from_inner(Tensor::cat(hidden_gradients, 0));
        let backward = (hidden * weights).sum().backward();
        gradients.accumulate(model, GradientsParams::from_grads(backward, model));
    }
    (loss, gradients.grads())
}
