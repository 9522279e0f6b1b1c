//! The loss of a language model in closed form: its values in pieces, for evaluation, and its
//! values with their gradient, for calibration and training.

use burn::tensor::activation::softmax;
use burn::tensor::{IndexingUpdateOp, Int, Tensor};

use super::language::LanguageModel;
use crate::host;

/// Number of entries of a row whose exponentials are summed at a time.
const GROUP: usize = 512;

/// Negative log-likelihoods of tokens, piece by piece: hidden states `[tokens, width]` and
/// targets `[tokens, 1]` to tensors `[piece, 1]`. No piece has more than `logits_at_once` logits,
/// but each has at least one row.
pub(crate) fn token_losses<M: LanguageModel>(
    model: &M,
    hidden: Tensor<2>,
    targets: Tensor<2, Int>,
    logits_at_once: usize,
) -> impl Iterator<Item = Tensor<2>> {
    let mut start = 0;
    logit_pieces(model, hidden, logits_at_once).map(move |logits| {
        let [rows, _] = logits.dims();
        let target = logits.clone().gather(1, targets.clone().narrow(0, start, rows));
        start += rows;
        log_sum_exp(logits) - target
    })
}

/// Logits of hidden states `[tokens, width]`, piece by piece: tensors `[piece, vocab_size]` of
/// [`rows_at_once`] rows each, but for the last one.
pub(crate) fn logit_pieces<M: LanguageModel>(
    model: &M,
    hidden: Tensor<2>,
    logits_at_once: usize,
) -> impl Iterator<Item = Tensor<2>> {
    let [tokens, _] = hidden.dims();
    let most = rows_at_once(model.vocab_size(), logits_at_once);
    (0..tokens).step_by(most).map(move |start| {
        let rows = most.min(tokens - start);
        let piece = hidden.clone().narrow(0, start, rows).unsqueeze_dim::<3>(0);
        model.logits(piece).squeeze_dim::<2>(0)
    })
}

/// The number of tokens whose logits are computed at once: no more than `logits_at_once` logits, but
/// those of at least one token.
pub(crate) fn rows_at_once(vocab_size: usize, logits_at_once: usize) -> usize {
    (logits_at_once / vocab_size).max(1)
}

/// `log Σ exp x` of every row, `[rows, n]` to `[rows, 1]`.
fn log_sum_exp(x: Tensor<2>) -> Tensor<2> {
    host::log_sum_exp(&x).unwrap_or_else(|| log_sum_exp_of_groups(x))
}

/// The same in Burn's operations.
///
/// Uses `log Σ exp x = max x - log max softmax(x)`: softmax is one fused pass on every
/// backend, and its largest entry is at least `1/n`, so it cannot underflow. Groups are reduced
/// first, because an f32 sum over a whole vocabulary has rounding errors in the fourth digit.
fn log_sum_exp_of_groups(x: Tensor<2>) -> Tensor<2> {
    let [rows, n] = x.dims();
    let groups = n.div_ceil(GROUP);
    // Padded with terms that add nothing; every group has at least one entry of the row.
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

/// Cross-entropy of every row, `[rows, vocab_size]` to `[rows]`, and the gradient of `share`
/// times their sum: `share · (softmax − one-hot)`. Autodiff would keep and pass over a dozen
/// tensors of the size of the logits.
pub(crate) fn cross_entropy(
    logits: Tensor<2>,
    targets: Tensor<2, Int>,
    share: f64,
) -> (Tensor<1>, Tensor<2>) {
    if let Some(found) = host::softmax_loss(&logits, &targets, share) {
        return found;
    }
    let [rows, _] = logits.dims();
    let softmax = softmax(logits.clone(), 1);
    // `log Σ exp x = max x - log max softmax(x)`, which neither underflows nor overflows.
    let log_sum = logits.clone().max_dim(1) - softmax.clone().max_dim(1).log();
    let loss = log_sum - logits.gather(1, targets.clone());
    let ones = Tensor::ones([rows, 1], &loss.device());
    let gradient = softmax.scatter(1, targets, -ones, IndexingUpdateOp::Add).mul_scalar(share);
    (loss.reshape([rows]), gradient)
}

/// The tensor as an autodiff leaf: it gets a gradient, and the graph ends there.
pub(crate) fn leaf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(x).require_grad()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn log_sum_exp_is_exact_for_any_length_and_any_scale() {
        let device = Device::default();
        for n in [1, 7, 512, 513, 1024, 32_001] {
            let row: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1000) as f32 / 50.0 - 300.0).collect();
            let terms = row.iter().map(|x| (f64::from(*x) + 300.0).exp()).sum::<f64>();
            let exact = terms.ln() - 300.0;
            let x = Tensor::<2>::from_data(TensorData::new(row, [1, n]), &device);
            for got in [log_sum_exp(x.clone()), log_sum_exp_of_groups(x)] {
                let got = got.into_scalar::<f64>();
                // One unit of rounding at this magnitude is 3e-5.
                assert!((got - exact).abs() < 1e-4, "{n}: {got} for {exact}");
            }
        }
    }
}
