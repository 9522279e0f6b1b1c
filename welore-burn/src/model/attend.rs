//! From queries, keys and values to what attention gives.

use burn::tensor::activation::softmax;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor};

use crate::host::{self, Causal};

/// From this many queries on, attention is computed in parts of at most this many queries.
const LONG: usize = 256;
/// Minimum number of parts then.
const PARTS: usize = 4;

/// Causal attention of queries `[batch, heads, rows, width]` to keys and values
/// `[batch, kv_heads, cols, width]`. On the CPU it is one pass, but for sinks with gradients. Elsewhere,
/// many queries are split into parts, each of which uses only the keys up to its end: four parts skip
/// 3/8 of the work and of the memory, all of it masked, and the scores of all queries never exist at
/// once unless gradients need them. With a `cap`, scores are [capped] before they are masked. With
/// `sinks`, one score for each head, each query also sees something that has this score, and nothing to
/// give (gpt-oss).
pub(super) fn attend(
    queries: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    mask: &CausalMask,
    cap: Option<f64>,
    sinks: Option<&Tensor<1>>,
) -> Tensor<4> {
    if mask.is_on_host {
        let sight = Causal { window: mask.window, cap, sinks };
        if let Some(output) = host::attention(&queries, &keys, &values, sight) {
            return output;
        }
    }
    let ([_, _, rows, _], [_, _, cols, _]) = (queries.dims(), keys.dims());
    let mask = &mask.with_tensors(rows, cols, &queries.device());
    let part = |start: usize, len: usize| {
        // The last query and the last key have the same position.
        let seen = cols - rows + start + len;
        let queries = queries.clone().narrow(2, start, len);
        let (keys, values) = (keys.clone().narrow(2, 0, seen), values.clone().narrow(2, 0, seen));
        match &mask.bias {
            Some(bias) => {
                let bias = bias.clone().narrow(2, start, len).narrow(3, 0, seen);
                attend_tracked([queries, keys, values], bias, cap, sinks)
            }
            None if rows == 1 && queries.dtype() == DType::F32 => {
                attend_last([queries, keys, values], mask, cap, sinks)
            }
            None if sinks.is_some() => {
                attend_beside([queries, keys, values], mask, start, cap, sinks)
            }
            None => attend_plain([queries, keys, values], mask, start, cap),
        }
    };
    if rows < LONG {
        return part(0, rows);
    }
    let step = rows.div_ceil(PARTS).min(LONG);
    let parts = (0..rows).step_by(step).map(|start| part(start, step.min(rows - start)));
    Tensor::cat(parts.collect(), 2)
}

/// Scores between `-cap` and `cap`: `cap · tanh(scores / cap)`.
fn capped(scores: Tensor<4>, cap: Option<f64>) -> Tensor<4> {
    match cap {
        Some(cap) => scores.div_scalar(cap).tanh().mul_scalar(cap),
        None => scores,
    }
}

/// Attention of the last position alone, as in generation. Heads that share keys are rows of one
/// product, which reads keys and values where the cache has them: Burn's attention would copy them,
/// once for each head.
fn attend_last(
    [queries, keys, values]: [Tensor<4>; 3],
    mask: &CausalMask,
    cap: Option<f64>,
    sinks: Option<&Tensor<1>>,
) -> Tensor<4> {
    let ([batch, heads, _, width], [_, kv_heads, _, _]) = (queries.dims(), keys.dims());
    let queries = queries.mul_scalar((width as f64).powf(-0.5));
    let queries = queries.reshape([batch, kv_heads, heads / kv_heads, width]);
    let scores = capped(queries.matmul(keys.swap_dims(2, 3)), cap);
    let scores = match &mask.outside {
        Some(outside) => {
            let outside = outside.clone().expand(scores.dims());
            scores.mask_fill(outside, f32::NEG_INFINITY)
        }
        None => scores,
    };
    let sinks = sinks.map(|sinks| sinks.clone().reshape([1, kv_heads, heads / kv_heads, 1]));
    softmax_beside(scores, sinks).matmul(values).reshape([batch, heads, 1, width])
}

/// The softmax of scores, and of one more score in each row if there are `sinks`, whose share is left
/// out of the result.
fn softmax_beside(scores: Tensor<4>, sinks: Option<Tensor<4>>) -> Tensor<4> {
    let Some(sinks) = sinks else { return softmax(scores, 3) };
    let [batch, heads, rows, cols] = scores.dims();
    let sinks = sinks.cast(FloatDType::from(scores.dtype())).expand([batch, heads, rows, 1]);
    softmax(Tensor::cat(vec![scores, sinks], 3), 3).narrow(3, 0, cols)
}

/// Attention with sinks, which Burn's attention does not have. The softmax is f32.
fn attend_beside(
    [queries, keys, values]: [Tensor<4>; 3],
    mask: &CausalMask,
    start: usize,
    cap: Option<f64>,
    sinks: Option<&Tensor<1>>,
) -> Tensor<4> {
    let ([batch, heads, rows, width], [_, kv_heads, cols, _]) = (queries.dims(), keys.dims());
    let (dtype, device) = (FloatDType::from(queries.dtype()), queries.device());
    let shared = [batch, kv_heads, heads / kv_heads * rows, width];
    let outside = mask.for_scores(&queries, start, &keys);
    let queries = queries.mul_scalar((width as f64).powf(-0.5)).reshape(shared);
    let scores = queries.matmul(keys.swap_dims(2, 3)).cast(FloatDType::F32);
    let scores = capped(scores.reshape([batch, heads, rows, cols]), cap);
    let after = distances(rows, cols, &device).lower_scalar(0).reshape([1, 1, rows, cols]);
    let scores = scores.mask_fill(after.expand([batch, heads, rows, cols]), f32::NEG_INFINITY);
    let scores = match outside {
        Some(outside) => scores.mask_fill(outside, f32::NEG_INFINITY),
        None => scores,
    };
    let sinks = sinks.map(|sinks| sinks.clone().reshape([1, heads, 1, 1]));
    let weights = softmax_beside(scores, sinks).cast(dtype);
    let weights = weights.reshape([batch, kv_heads, shared[2], cols]);
    weights.matmul(values).reshape([batch, heads, rows, width])
}

/// Burn's attention, a fused kernel where the device has one.
fn attend_plain(
    [queries, keys, values]: [Tensor<4>; 3],
    mask: &CausalMask,
    start: usize,
    cap: Option<f64>,
) -> Tensor<4> {
    let options = AttentionModuleOptions { is_causal: true, softcap: cap, ..Default::default() };
    let ([_, heads, _, _], [batch, kv_heads, cols, width]) = (queries.dims(), keys.dims());
    let group = heads / kv_heads;
    let per_query = |x: Tensor<4>| match group {
        1 => x,
        _ => x.unsqueeze_dim::<5>(2).repeat_dim(2, group).reshape([batch, heads, cols, width]),
    };
    let (keys, values) = (per_query(keys), per_query(values));
    let mask = mask.for_scores(&queries, start, &keys);
    attention(queries, keys, values, mask, None, options)
}

/// Attention for training, where Burn has no fused kernel and records every operation. It applies
/// few operations to the scores: the queries are scaled instead, and the division by the sum of
/// the softmax comes after the product with the values. Heads that share keys are rows of one
/// product. The softmax is f32.
fn attend_tracked(
    [queries, keys, values]: [Tensor<4>; 3],
    bias: Tensor<4>,
    cap: Option<f64>,
    sinks: Option<&Tensor<1>>,
) -> Tensor<4> {
    let ([batch, heads, rows, width], [_, kv_heads, cols, _]) = (queries.dims(), keys.dims());
    let shared = [batch, kv_heads, heads / kv_heads * rows, width];
    let dtype = FloatDType::from(queries.dtype());
    let queries = queries.mul_scalar((width as f64).powf(-0.5)).reshape(shared);
    let scores = queries.matmul(keys.swap_dims(2, 3)).cast(FloatDType::F32);
    let scores = capped(scores.reshape([batch, heads, rows, cols]), cap) + bias;
    // The largest score only keeps the exponential in range; it cancels in the result and in the
    // gradient.
    let largest = scores.clone().inner().max_dim(3);
    let sinks = sinks.map(|sinks| {
        let sinks = sinks.clone().cast(FloatDType::F32).reshape([1, heads, 1, 1]);
        sinks.expand([batch, heads, rows, 1])
    });
    let largest = Tensor::from_inner(match &sinks {
        Some(sinks) => largest.max_pair(sinks.clone().inner()),
        None => largest,
    });
    let beside =
        sinks.map(|sinks| (sinks - largest.clone()).exp().reshape([batch, kv_heads, shared[2], 1]));
    let weights = (scores - largest).exp().reshape([batch, kv_heads, shared[2], cols]);
    let (sums, context) = if dtype == FloatDType::F32 {
        // A column of ones in the values gives the sums without another pass.
        let ones = Tensor::ones([batch, kv_heads, cols, 1], &values.device());
        let context = weights.matmul(Tensor::cat(vec![values, ones], 3));
        (context.clone().narrow(3, width, 1), context.narrow(3, 0, width))
    } else {
        let sums = weights.clone().sum_dim(3);
        (sums, weights.cast(dtype).matmul(values).cast(FloatDType::F32))
    };
    let sums = match beside {
        Some(beside) => sums + beside,
        None => sums,
    };
    (context / sums).cast(dtype).reshape([batch, heads, rows, width])
}

/// By how many positions a query is after a key, `[queries, keys]`. The last query and the last key have
/// the same position.
fn distances(queries: usize, keys: usize, device: &Device) -> Tensor<2, Int> {
    let first = (keys - queries) as i64;
    let rows = Tensor::<1, Int>::arange(first..keys as i64, device).reshape([queries, 1]);
    let cols = Tensor::<1, Int>::arange(0..keys as i64, device).reshape([1, keys]);
    rows.expand([queries, keys]) - cols.expand([queries, keys])
}

/// The positions that a query does not see.
#[derive(Debug, Clone)]
pub struct CausalMask {
    window: Option<usize>,
    /// Whether attention is computed on the host, for which `window` is enough.
    is_on_host: bool,
    /// `true` where a key is outside the window, `[1, 1, queries, keys]`; `None` if there is no
    /// window or it holds all keys. Keys after the query are not marked here.
    outside: Option<Tensor<4, Bool>>,
    /// Added to the scores: 0 where a key is seen and −∞ where it is not, `[1, 1, queries, keys]`.
    /// Present only where gradients are recorded.
    bias: Option<Tensor<4>>,
}

impl CausalMask {
    /// Every query sees all positions up to its own, or the last `window` of them (Mistral,
    /// arXiv 2310.06825). The queries are the last `queries` of `keys` positions.
    pub fn new(window: Option<usize>, queries: usize, keys: usize, device: &Device) -> Self {
        let window = window.filter(|window| *window < keys);
        match host::is_host(device) {
            true => Self { window, is_on_host: true, outside: None, bias: None },
            false => Self::of_tensors(window, queries, keys, device),
        }
    }

    /// The same, with the tensors that Burn's operations need.
    fn with_tensors(&self, queries: usize, keys: usize, device: &Device) -> Self {
        match self.is_on_host {
            true => Self::of_tensors(self.window, queries, keys, device),
            false => self.clone(),
        }
    }

    fn of_tensors(window: Option<usize>, queries: usize, keys: usize, device: &Device) -> Self {
        let tracked = device.is_autodiff();
        let none = Self { window, is_on_host: false, outside: None, bias: None };
        if window.is_none() && !tracked {
            return none;
        }
        let distance = distances(queries, keys, device);
        let shape = [1, 1, queries, keys];
        let outside = window
            .map(|window| distance.clone().greater_equal_scalar(window as i64).reshape(shape));
        let bias = tracked.then(|| {
            let bias = Tensor::<4>::zeros(shape, device);
            let after = distance.lower_scalar(0).reshape(shape);
            let bias = bias.mask_fill(after, f32::NEG_INFINITY);
            match &outside {
                Some(outside) => bias.mask_fill(outside.clone(), f32::NEG_INFINITY),
                None => bias,
            }
        });
        Self { outside, bias, ..none }
    }

    /// The mask of these queries, the first of which is number `start`, for these keys.
    fn for_scores(
        &self,
        queries: &Tensor<4>,
        start: usize,
        keys: &Tensor<4>,
    ) -> Option<Tensor<4, Bool>> {
        let ([batch, heads, rows, _], [_, _, cols, _]) = (queries.dims(), keys.dims());
        let part = self.outside.clone()?.narrow(2, start, rows).narrow(3, 0, cols);
        Some(part.expand([batch, heads, rows, cols]))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};

    use super::*;

    /// The mask for attention on the host, and that for Burn's operations, which other devices use.
    fn masks(window: Option<usize>, rows: usize, cols: usize, device: &Device) -> [CausalMask; 2] {
        let smaller = window.filter(|window| *window < cols);
        let of_tensors = CausalMask::of_tensors(smaller, rows, cols, device);
        [CausalMask::new(window, rows, cols, device), of_tensors]
    }

    /// Attention by definition: all scores, mask, softmax, values.
    fn by_definition(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, window: usize) -> Tensor<4> {
        capped_by_definition(q, k, v, window, None)
    }

    fn capped_by_definition(
        q: Tensor<4>,
        k: Tensor<4>,
        v: Tensor<4>,
        window: usize,
        cap: Option<f64>,
    ) -> Tensor<4> {
        let device = q.device();
        let ([_, _, rows, width], [_, _, cols, _]) = (q.dims(), k.dims());
        let visible = |row: usize, col: usize| {
            let position = row + cols - rows;
            col <= position && position - col < window
        };
        let hidden: Vec<f32> = (0..rows * cols)
            .map(|i| if visible(i / cols, i % cols) { 0.0 } else { -1e30 })
            .collect();
        let bias = Tensor::<4>::from_data(
            burn::tensor::TensorData::new(hidden, [1, 1, rows, cols]),
            &device,
        );
        let scores = q.matmul(k.swap_dims(2, 3)).div_scalar((width as f64).sqrt());
        let scores = match cap {
            Some(cap) => (scores / cap).tanh() * cap,
            None => scores,
        };
        let scores = scores + bias;
        burn::tensor::activation::softmax(scores, 3).matmul(v)
    }

    #[test]
    fn attention_in_parts_is_attention() {
        let device = Device::default();
        let random =
            |len| Tensor::<4>::random([2, 3, len, 8], Distribution::Normal(0.0, 1.0), &device);
        for (rows, cols, window) in [
            (10, 10, 99),
            (257, 257, 999),
            (300, 300, 40),
            (258, 300, 999),
            (260, 333, 50),
            (1, 90, 30),
            (1, 90, 999),
        ] {
            let (q, k, v) = (random(rows), random(cols), random(cols));
            let expected = by_definition(q.clone(), k.clone(), v.clone(), window).into_data();
            for mask in masks(Some(window), rows, cols, &device) {
                let got = attend(q.clone(), k.clone(), v.clone(), &mask, None, None).into_data();
                got.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-4, 1e-4));
            }
        }
    }

    #[test]
    fn attention_of_the_last_position_is_attention_where_heads_share_keys() {
        let device = Device::default();
        let random = |heads, len| {
            Tensor::<4>::random([2, heads, len, 8], Distribution::Normal(0.0, 1.0), &device)
        };
        for window in [7, 99] {
            // More room than positions, as in a cache.
            let (q, k, v) = (random(6, 1), random(2, 40), random(2, 40));
            let seen = |x: &Tensor<4>| x.clone().narrow(2, 0, 20);
            let per_query =
                |x: Tensor<4>| x.unsqueeze_dim::<5>(2).repeat_dim(2, 3).reshape([2, 6, 20, 8]);
            let expected =
                by_definition(q.clone(), per_query(seen(&k)), per_query(seen(&v)), window);
            let expected = expected.into_data();
            for mask in masks(Some(window), 1, 20, &device) {
                let got = attend(q.clone(), seen(&k), seen(&v), &mask, None, None).into_data();
                got.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-4, 1e-4));
            }
        }
    }

    #[test]
    fn scores_are_capped_in_every_way_to_attend() {
        let plain = Device::default();
        let tracked = plain.clone().autodiff();
        let random =
            |len| Tensor::<4>::random([2, 3, len, 8], Distribution::Normal(0.0, 2.0), &plain);
        // One position, several, and so many that they are split; with and without a window.
        for (rows, cols, window) in [(1, 9, 99), (1, 9, 4), (7, 9, 4), (257, 257, 999)] {
            let (q, k, v) = (random(rows), random(cols), random(cols));
            let cap = Some(1.5);
            let expected = capped_by_definition(q.clone(), k.clone(), v.clone(), window, cap);
            let expected = expected.into_data();
            for mask in masks(Some(window), rows, cols, &plain) {
                let got = attend(q.clone(), k.clone(), v.clone(), &mask, cap, None).into_data();
                got.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-4, 1e-4));
            }
            for mask in masks(Some(window), rows, cols, &tracked) {
                let [q, k, v] = [&q, &k, &v].map(|x| Tensor::from_inner(x.clone()));
                let got = attend(q, k, v, &mask, cap, None).inner().into_data();
                got.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-4, 1e-4));
            }
        }
    }

    /// A key whose score is that of the sink, in the place of the first one, and that gives nothing.
    fn beside_by_definition(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, sinks: &[f32]) -> Tensor<4> {
        let device = q.device();
        let ([batch, heads, rows, width], [_, _, cols, _]) = (q.dims(), k.dims());
        let scores = q.matmul(k.swap_dims(2, 3)).div_scalar((width as f64).sqrt());
        let hidden: Vec<f32> = (0..rows * cols)
            .map(|i| if i % cols <= i / cols + cols - rows { 0.0 } else { -1e30 })
            .collect();
        let hidden = burn::tensor::TensorData::new(hidden, [1, 1, rows, cols]);
        let scores = scores + Tensor::<4>::from_data(hidden, &device);
        let sinks = burn::tensor::TensorData::new(sinks.to_vec(), [1, heads, 1, 1]);
        let sinks = Tensor::<4>::from_data(sinks, &device).expand([batch, heads, rows, 1]);
        let weights = softmax(Tensor::cat(vec![sinks, scores], 3), 3).narrow(3, 1, cols);
        weights.matmul(v)
    }

    #[test]
    fn sinks_take_a_share_in_every_way_to_attend() {
        let plain = Device::default();
        let tracked = plain.clone().autodiff();
        let random =
            |len| Tensor::<4>::random([2, 3, len, 8], Distribution::Normal(0.0, 2.0), &plain);
        let scores = [-1.0f32, 0.5, 9.0];
        for (rows, cols) in [(1, 9), (7, 9), (257, 257)] {
            let (q, k, v) = (random(rows), random(cols), random(cols));
            let expected = beside_by_definition(q.clone(), k.clone(), v.clone(), &scores);
            let expected = expected.into_data();
            let sinks = Tensor::<1>::from_data(scores, &plain);
            for mask in masks(None, rows, cols, &plain) {
                let got = attend(q.clone(), k.clone(), v.clone(), &mask, None, Some(&sinks));
                got.into_data().assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-4, 1e-4));
            }
            let sinks = Tensor::from_inner(sinks);
            for mask in masks(None, rows, cols, &tracked) {
                let [q, k, v] = [&q, &k, &v].map(|x| Tensor::from_inner(x.clone()));
                let got = attend(q, k, v, &mask, None, Some(&sinks)).inner();
                got.into_data().assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-4, 1e-4));
            }
        }
    }

    #[test]
    fn attention_for_training_has_the_result_and_the_gradients_of_the_definition() {
        let plain = Device::default();
        let device = plain.clone().autodiff();
        let random = |heads, len, scale| {
            let shape = [2, heads, len, 8];
            Tensor::<4>::random(shape, Distribution::Normal(0.0, scale), &plain)
        };
        // Two heads share keys; scores reach far beyond the range of the exponential.
        for (rows, window, scale) in [(9, 99, 1.0), (9, 4, 6.0), (257, 100, 1.0)] {
            // A score is as precise as its rounding, and so is the logarithm of a weight: a few
            // units of rounding times the largest score.
            let tolerance =
                32.0 * f64::from(f32::EPSILON) * (1.0 + 4.0 * scale * scale * 8f64.sqrt());
            let given = [random(4, rows, scale), random(2, rows, scale), random(2, rows, 1.0)];
            let weights = Tensor::from_inner(random(4, rows, 1.0));
            let reference = given.clone().map(|x| Tensor::from_inner(x).require_grad());
            let [q, k, v] = reference.clone();
            let repeated = |x: Tensor<4>| x.repeat_dim(1, 2).reshape([2, 2, 2, rows, 8]);
            let per_query = |x| repeated(x).swap_dims(1, 2).reshape([2, 4, rows, 8]);
            let expected = by_definition(q, per_query(k), per_query(v), window);
            let expected_backward = (expected.clone() * weights.clone()).sum().backward();

            let close = |a: Tensor<4>, b: Tensor<4>| {
                let scale = b.clone().abs().max().into_scalar::<f64>();
                let gap = (a - b).abs().max().into_scalar::<f64>();
                assert!(gap < tolerance * scale, "{gap} of {scale}");
            };
            for mask in masks(Some(window), rows, rows, &device) {
                let leaves = given.clone().map(|x| Tensor::from_inner(x).require_grad());
                let [q, k, v] = leaves.clone();
                let got = attend(q, k, v, &mask, None, None);
                let backward = (got.clone() * weights.clone()).sum().backward();
                close(got.inner(), expected.clone().inner());
                for (leaf, reference) in leaves.iter().zip(&reference) {
                    let expected = reference.grad(&expected_backward).unwrap();
                    close(leaf.grad(&backward).unwrap(), expected);
                }
            }
        }
    }
}
