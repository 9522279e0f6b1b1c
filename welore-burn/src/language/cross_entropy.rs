//! The loss of a language model by its formula, for whoever goes backward in pieces.

use burn::tensor::activation::softmax;
use burn::tensor::{IndexingUpdateOp, Int, Tensor};

/// Cross-entropy of every row, `[rows, vocab_size]` to `[rows]`, and the gradient of `share`
/// times their sum: `share · (softmax − one-hot)`. By its formula and not by autodiff, which
/// keeps and passes over tensors of the logits' size a dozen times.
pub(crate) fn cross_entropy(
    logits: Tensor<2>,
    targets: Tensor<2, Int>,
    share: f64,
) -> (Tensor<1>, Tensor<2>) {
    let [rows, _] = logits.dims();
    let softmax = softmax(logits.clone(), 1);
    // `log Σ exp x = max x - log max softmax(x)`, of which nothing under- or overflows.
    let log_sum = logits.clone().max_dim(1) - softmax.clone().max_dim(1).log();
    let loss = log_sum - logits.gather(1, targets.clone());
    let ones = Tensor::ones([rows, 1], &loss.device());
    let gradient = softmax.scatter(1, targets, -ones, IndexingUpdateOp::Add).mul_scalar(share);
    (loss.reshape([rows]), gradient)
}

/// A tensor that gradients are computed for, and nothing before it.
pub(crate) fn leaf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(x).require_grad()
}
