//! Attention on the host. Scores are computed for a block of queries and the keys that it sees, and are
//! gone before the next block.

use burn::tensor::{DType, FloatDType, Tensor};
use rayon::prelude::*;

use super::attention_back::Kept;
use super::exp::exp;
use super::recorded::record;
use super::rows::dot;
use super::{Numbers, tensor};
use crate::linalg::{Rows, Written, multiply_into};

/// Queries of a block.
pub(super) const BLOCK: usize = 64;

/// Products of scores below which a thread does not pay.
const LEAST_SCORES: usize = 1 << 16;

/// What queries see. The last query and the last key have the same position, and no query sees a key after
/// its own position.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Causal<'a> {
    /// The number of keys that a query sees at most, its own among them.
    pub window: Option<usize>,
    /// Scores are `cap · tanh(scores / cap)`.
    pub cap: Option<f64>,
    /// One score for each head, of something that every query sees, and that gives nothing.
    pub sinks: Option<&'a Tensor<1>>,
}

/// `softmax(queries · keysᵀ / √width) · values`, in f32, in the type of the queries. Heads of keys are shared
/// by as many heads of queries in a row.
///
/// # Shapes
///
/// - queries: `[batch, heads, rows, width]`
/// - keys: `[batch, kv_heads, cols, width]`, at least as many as queries
/// - values: `[batch, kv_heads, cols, values]`
/// - output: `[batch, heads, rows, values]`
pub(crate) fn attention(
    queries: &Tensor<4>,
    keys: &Tensor<4>,
    values: &Tensor<4>,
    sight: Causal<'_>,
) -> Option<Tensor<4>> {
    let given = queries.dtype();
    if !matches!(given, DType::F32 | DType::F16 | DType::BF16) {
        return None;
    }
    let [queries, keys, values] = [queries, keys, values].map(|x| x.clone().cast(FloatDType::F32));
    let recording = [&queries, &keys, &values].iter().any(|x| x.is_autodiff());
    let output = match recording {
        false => forward(&queries, &keys, &values, sight, None)?,
        true if sight.sinks.is_some() => return None,
        true => record([&queries, &keys, &values], |[queries, keys, values]| {
            let mut log_sums = Vec::new();
            let output = forward(queries, keys, values, sight, Some(&mut log_sums))?;
            let inputs = [queries, keys, values].map(Clone::clone);
            let (window, cap) = (sight.window, sight.cap);
            Some((output.clone(), Kept { inputs, output, log_sums, window, cap }))
        })?,
    };
    Some(output.cast(FloatDType::from(given)))
}

/// [`attention`] of f32. `log_sums` gets the logarithm of the sum of each query's exponentials,
/// `[batch, rows, heads]`.
fn forward(
    queries: &Tensor<4>,
    keys: &Tensor<4>,
    values: &Tensor<4>,
    sight: Causal<'_>,
    log_sums: Option<&mut Vec<f32>>,
) -> Option<Tensor<4>> {
    let ([batch, heads, rows, _], [_, _, _, width]) = (queries.dims(), values.dims());
    let sinks = match sight.sinks {
        Some(sinks) => Some(Numbers::<1>::in_order(&sinks.clone().cast(FloatDType::F32))?),
        None => None,
    };
    let sinks = sinks.as_ref().map(|sinks| sinks.slice());
    let work = Work::new([queries, keys, values], sight.window, sight.cap, sinks)?;
    // As later layers read it: the heads of a position one after the other.
    let row = heads * width;
    let mut out = vec![0.0; batch * rows * row];
    let alone = rows == 1 && log_sums.is_none();
    let mut not_wanted = Vec::new();
    let log_sums = log_sums.unwrap_or(&mut not_wanted);
    log_sums.resize(batch * rows * heads, 0.0);
    let sequences =
        out.par_chunks_exact_mut(rows * row).zip(log_sums.par_chunks_exact_mut(rows * heads));
    sequences.enumerate().for_each(|(sequence, (out, log_sums))| {
        if alone {
            let part = work.group * width;
            let parts = out.par_chunks_mut(part).enumerate().with_min_len(work.heads_at_once());
            parts.for_each_init(Vec::new, |scores, (head, out)| {
                work.last([sequence, head], scores, out);
            });
        } else {
            let blocks =
                out.par_chunks_mut(BLOCK * row).zip(log_sums.par_chunks_mut(BLOCK * heads));
            blocks.enumerate().for_each_init(Vec::new, |scores, (block, (out, log_sums))| {
                for head in 0..heads {
                    work.block([sequence, head], block * BLOCK, scores, (out, log_sums));
                }
            });
        }
    });
    Some(tensor(out, [batch, rows, heads, width], &queries.device()).swap_dims(1, 2))
}

/// What is computed, on the numbers where they are.
pub(super) struct Work<'a> {
    pub queries: Numbers<4>,
    pub keys: Numbers<4>,
    pub values: Numbers<4>,
    sinks: Option<&'a [f32]>,
    pub scale: f32,
    pub cap: Option<f32>,
    window: usize,
    /// Heads of queries for each head of keys.
    pub group: usize,
}

impl<'a> Work<'a> {
    /// `None` if the numbers are elsewhere, or there is nothing to compute.
    pub fn new(
        [queries, keys, values]: [&Tensor<4>; 3],
        window: Option<usize>,
        cap: Option<f64>,
        sinks: Option<&'a [f32]>,
    ) -> Option<Self> {
        let ([batch, heads, rows, width], [_, kv_heads, cols, _]) = (queries.dims(), keys.dims());
        if rows == 0 || cols < rows || batch * heads * kv_heads * width * values.dims()[3] == 0 {
            return None;
        }
        Some(Self {
            queries: rows_of(queries)?,
            keys: rows_of(keys)?,
            values: rows_of(values)?,
            sinks,
            scale: (width as f32).powf(-0.5),
            cap: cap.map(|cap| cap as f32),
            window: window.unwrap_or(usize::MAX).max(1),
            group: heads / kv_heads,
        })
    }

    /// Heads of keys that a thread should have at least.
    fn heads_at_once(&self) -> usize {
        let ([.., width], [_, _, cols, _]) = (self.queries.dims, self.keys.dims);
        (LEAST_SCORES / (cols * self.group * width)).max(1)
    }

    /// The keys that a query sees.
    pub fn seen(&self, query: usize) -> std::ops::Range<usize> {
        let ([_, _, rows, _], [_, _, cols, _]) = (self.queries.dims, self.keys.dims);
        let end = cols - rows + query + 1;
        end.saturating_sub(self.window)..end
    }

    /// One query for each head of queries that shares a head of keys.
    fn last(&self, [sequence, kv_head]: [usize; 2], scores: &mut Vec<f32>, out: &mut [f32]) {
        let (seen, [_, _, _, width]) = (self.seen(0), self.queries.dims);
        let out_width = out.len() / self.group;
        let (keys, values) =
            (head(&self.keys, sequence, kv_head), head(&self.values, sequence, kv_head));
        let (key_stride, value_stride) = (self.keys.strides[2], self.values.strides[2]);
        scores.clear();
        scores.resize(self.group * seen.len(), 0.0);
        let of_group = |index: usize| kv_head * self.group + index;
        let queries: Vec<&[f32]> = (0..self.group)
            .map(|index| &head(&self.queries, sequence, of_group(index))[..width])
            .collect();
        for (at, key) in seen.clone().enumerate() {
            let key = &keys[key * key_stride..][..width];
            for (index, query) in queries.iter().enumerate() {
                scores[index * seen.len() + at] = dot(query, key);
            }
        }
        for (index, scores) in scores.chunks_exact_mut(seen.len()).enumerate() {
            let sink = self.sinks.map(|sinks| sinks[of_group(index)]);
            let (total, _) = weigh(scores, self.scale, self.cap, sink);
            scores.iter_mut().for_each(|weight| *weight /= total);
        }
        for (at, value) in seen.clone().enumerate() {
            let value = &values[value * value_stride..][..out_width];
            for (index, out) in out.chunks_exact_mut(out_width).enumerate() {
                add(scores[index * seen.len() + at], value, out);
            }
        }
    }

    /// A block of queries from number `first` on, of one head, into its place in rows of all heads.
    fn block(
        &self,
        [sequence, number]: [usize; 2],
        first: usize,
        scores: &mut Vec<f32>,
        (out, log_sums): (&mut [f32], &mut [f32]),
    ) {
        let ([_, heads, _, width], [_, _, _, out_width]) = (self.queries.dims, self.values.dims);
        let count = out.len() / (heads * out_width);
        let seen = self.seen(first).start..self.seen(first + count - 1).end;
        let kv_head = number / self.group;
        scores.clear();
        scores.resize(count * seen.len(), 0.0);
        let queries = head(&self.queries, sequence, number);
        let queries = matrix(queries, first, [count, width], self.queries.strides[2]);
        let (keys, values) =
            (head(&self.keys, sequence, kv_head), head(&self.values, sequence, kv_head));
        let keys = matrix(keys, seen.start, [seen.len(), width], self.keys.strides[2]);
        let values = matrix(values, seen.start, [seen.len(), out_width], self.values.strides[2]);
        multiply_into(scores, seen.len(), Written::Over, queries, keys.transposed());
        let sink = self.sinks.map(|sinks| sinks[number]);
        let mut totals = [0.0; BLOCK];
        let rows = scores.chunks_exact_mut(seen.len()).zip(&mut totals).enumerate();
        for (index, (row, total)) in rows {
            let own = self.seen(first + index);
            let (before, own) = (own.start - seen.start, own.end - seen.start);
            row[..before].fill(0.0);
            row[own..].fill(0.0);
            let (sum, largest) = weigh(&mut row[before..own], self.scale, self.cap, sink);
            *total = sum;
            log_sums[index * heads + number] = largest + sum.ln();
        }
        let row = heads * out_width;
        let out = &mut out[number * out_width..];
        let len = (count - 1) * row + out_width;
        let scores = Rows::new(scores, [count, seen.len()], seen.len());
        multiply_into(&mut out[..len], row, Written::Over, scores, values);
        for (out, total) in out.chunks_mut(row).zip(totals).take(count) {
            out[..out_width].iter_mut().for_each(|number| *number /= total);
        }
    }
}

/// The numbers of heads whose rows are each in order.
fn rows_of(x: &Tensor<4>) -> Option<Numbers<4>> {
    match Numbers::<4>::of(x)? {
        rows if rows.strides[3] == 1 => Some(rows),
        _ => Numbers::<4>::in_order(x),
    }
}

/// The numbers of a head, from the first one on.
pub(super) fn head(numbers: &Numbers<4>, sequence: usize, head: usize) -> &[f32] {
    &numbers.all()[sequence * numbers.strides[0] + head * numbers.strides[1]..]
}

/// Some rows of a head.
pub(super) fn matrix(numbers: &[f32], first: usize, shape: [usize; 2], stride: usize) -> Rows<'_> {
    Rows::new(&numbers[first * stride..], shape, stride)
}

for_processors! {
    /// Makes of products the weights of a softmax, which still have to be divided by the first result. The
    /// second one is the largest score.
    fn weigh(scores: &mut [f32], scale: f32, cap: Option<f32>, sink: Option<f32>) -> (f32, f32) {
        match cap {
            Some(cap) => scores.iter_mut().for_each(|score| *score = (*score * scale / cap).tanh() * cap),
            None => scores.iter_mut().for_each(|score| *score *= scale),
        }
        let mut largest = [f32::NEG_INFINITY; 16];
        let (runs, rest) = scores.as_chunks::<16>();
        for run in runs {
            for (largest, score) in largest.iter_mut().zip(run) {
                *largest = if *score > *largest { *score } else { *largest };
            }
        }
        let largest = largest.iter().chain(rest).chain(&sink).fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let mut sums = [0.0f32; 16];
        let (runs, rest) = scores.as_chunks_mut::<16>();
        for run in runs {
            for (sum, score) in sums.iter_mut().zip(run) {
                *score = exp(*score - largest);
                *sum += *score;
            }
        }
        let mut total = sums.iter().sum::<f32>();
        for score in rest {
            *score = exp(*score - largest);
            total += *score;
        }
        (total + sink.map_or(0.0, |sink| exp(sink - largest)), largest)
    }
}

for_processors! {
    fn add(weight: f32, value: &[f32], out: &mut [f32]) {
        out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation::softmax;
    use burn::tensor::{Device, Distribution, TensorData, Tolerance};

    use super::*;

    /// All scores, mask, softmax, values.
    fn by_definition([queries, keys, values]: [Tensor<4>; 3], sight: Causal<'_>) -> Tensor<4> {
        let ([_, heads, rows, width], [_, kv_heads, cols, _]) = (queries.dims(), keys.dims());
        let group = heads / kv_heads;
        let per_query = |x: Tensor<4>| {
            let of_heads = (0..heads).map(|head| x.clone().narrow(1, head / group, 1));
            Tensor::cat(of_heads.collect(), 1)
        };
        let window = sight.window.unwrap_or(cols);
        let is_seen = |query: usize, key: usize| key <= query && query - key < window;
        let hidden: Vec<f32> = (0..rows * cols)
            .map(|i| if is_seen(i / cols + cols - rows, i % cols) { 0.0 } else { -1e30 })
            .collect();
        let hidden = TensorData::new(hidden, [1, 1, rows, cols]);
        let hidden = Tensor::<4>::from_data(hidden, &queries.device());
        let scores = queries.matmul(per_query(keys).swap_dims(2, 3));
        let scores = scores.div_scalar((width as f64).sqrt());
        let scores = match sight.cap {
            Some(cap) => scores.div_scalar(cap).tanh().mul_scalar(cap),
            None => scores,
        };
        softmax(scores + hidden, 3).matmul(per_query(values))
    }

    /// Heads whose rows are apart, with other numbers around them, as in a cache.
    fn random(heads: usize, len: usize, width: usize) -> Tensor<4> {
        let shape = [2, len + 3, heads, width + 2];
        let all = Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex());
        all.narrow(1, 1, len).narrow(3, 1, width).swap_dims(1, 2)
    }

    #[test]
    fn it_is_attention_by_definition_and_so_are_its_gradients() {
        // One query and several after others, and two blocks; heads share keys, values are narrower.
        for (rows, cols) in [(1, 9), (7, 9), (9, 9), (70, 133)] {
            for (window, cap) in [(None, None), (Some(4), None), (Some(80), Some(1.5))] {
                let sight = Causal { window, cap, sinks: None };
                let given = [random(4, rows, 8), random(2, cols, 8), random(2, cols, 5)];
                let [queries, keys, values] = &given;
                let tolerance = Tolerance::rel_abs(1e-4, 1e-4);
                let got = attention(queries, keys, values, sight).unwrap().into_data();
                let expected = by_definition(given.clone(), sight).into_data();
                got.assert_approx_eq::<f32>(&expected, tolerance);

                let weights = Tensor::from_inner(random(4, rows, 5));
                let gradients = |compute: &dyn Fn([Tensor<4>; 3]) -> Tensor<4>| {
                    let leaves = given.clone().map(|x| Tensor::from_inner(x).require_grad());
                    let output = compute(leaves.clone()) * weights.clone();
                    let found = output.sum().backward();
                    leaves.map(|leaf| leaf.grad(&found).unwrap().into_data())
                };
                let got = gradients(&|[q, k, v]| attention(&q, &k, &v, sight).unwrap());
                let expected = gradients(&|given| by_definition(given, sight));
                for (got, expected) in got.iter().zip(&expected) {
                    got.assert_approx_eq::<f32>(expected, tolerance);
                }
            }
        }
    }

    #[test]
    fn it_does_not_depend_on_the_number_of_threads() {
        let (queries, keys, values) = (random(4, 130, 8), random(2, 133, 8), random(2, 133, 8));
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let compute = || attention(&queries, &keys, &values, Causal::default());
            pool.install(|| compute().unwrap().into_data())
        };
        assert_eq!(with(1), with(3));
    }
}
