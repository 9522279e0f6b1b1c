//! Attention on the host. Scores are computed for a block of queries and the keys that it sees, and are
//! gone before the next block.

use burn::tensor::{DType, FloatDType, Tensor};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::exp::exp;
use super::rows::dot;
use super::{Numbers, tensor};

/// Queries of a block.
const BLOCK: usize = 64;

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
    let ([batch, heads, rows, width], [_, kv_heads, cols, _]) = (queries.dims(), keys.dims());
    let [_, _, _, out_width] = values.dims();
    let numbers = |x: &Tensor<4>| match Numbers::<4>::of(x)? {
        rows if rows.strides[3] == 1 => Some(rows),
        _ => Numbers::<4>::in_order(x),
    };
    let sinks = match sight.sinks {
        Some(sinks) => Some(Numbers::<1>::in_order(&sinks.clone().cast(FloatDType::F32))?),
        None => None,
    };
    let work = Work {
        queries: numbers(&queries)?,
        keys: numbers(&keys)?,
        values: numbers(&values)?,
        sinks: sinks.as_ref().map(|sinks| sinks.slice()),
        scale: (width as f32).powf(-0.5),
        cap: sight.cap.map(|cap| cap as f32),
        window: sight.window.unwrap_or(usize::MAX).max(1),
        group: heads / kv_heads.max(1),
    };
    if rows == 0 || cols < rows || width * out_width * heads * batch == 0 {
        return None;
    }
    let mut out = vec![0.0; batch * rows * heads * out_width];
    // As later layers read it: the heads of a position one after the other.
    let row = heads * out_width;
    let sequences = out.chunks_exact_mut(rows * row).enumerate();
    for (sequence, out) in sequences {
        if rows == 1 {
            let part = work.group * out_width;
            let at_once = (LEAST_SCORES / (cols * work.group * width)).max(1);
            out.par_chunks_mut(part)
                .enumerate()
                .with_min_len(at_once)
                .for_each_init(Vec::new, |scores, (head, out)| {
                    work.last([sequence, head], scores, out)
                });
        } else {
            out.par_chunks_mut(BLOCK * row).enumerate().for_each_init(
                Vec::new,
                |scores, (block, out)| {
                    for head in 0..heads {
                        work.block([sequence, head], block * BLOCK, scores, out);
                    }
                },
            );
        }
    }
    let out = tensor(out, [batch, rows, heads, out_width], &queries.device());
    Some(out.swap_dims(1, 2).cast(FloatDType::from(given)))
}

struct Work<'a> {
    queries: Numbers<4>,
    keys: Numbers<4>,
    values: Numbers<4>,
    sinks: Option<&'a [f32]>,
    scale: f32,
    cap: Option<f32>,
    window: usize,
    /// Heads of queries for each head of keys.
    group: usize,
}

impl Work<'_> {
    /// The keys that a query sees.
    fn seen(&self, query: usize) -> std::ops::Range<usize> {
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
            let total = weigh(scores, self.scale, self.cap, sink);
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
        out: &mut [f32],
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
        let all = MatMut::from_row_major_slice_mut(scores, count, seen.len());
        matmul(all, Accum::Replace, queries, keys.transpose(), 1.0, Par::Seq);
        let sink = self.sinks.map(|sinks| sinks[number]);
        let mut totals = [0.0; BLOCK];
        let rows = scores.chunks_exact_mut(seen.len()).zip(&mut totals).enumerate();
        for (index, (row, total)) in rows {
            let own = self.seen(first + index);
            let (before, own) = (own.start - seen.start, own.end - seen.start);
            row[..before].fill(0.0);
            row[own..].fill(0.0);
            *total = weigh(&mut row[before..own], self.scale, self.cap, sink);
        }
        let row = heads * out_width;
        let out = &mut out[number * out_width..];
        let len = (count - 1) * row + out_width;
        let place =
            MatMut::from_row_major_slice_with_stride_mut(&mut out[..len], count, out_width, row);
        let scores = MatRef::from_row_major_slice(scores, count, seen.len());
        matmul(place, Accum::Replace, scores, values, 1.0, Par::Seq);
        for (out, total) in out.chunks_mut(row).zip(totals).take(count) {
            out[..out_width].iter_mut().for_each(|number| *number /= total);
        }
    }
}

/// The numbers of a head, from the first one on.
fn head(numbers: &Numbers<4>, sequence: usize, head: usize) -> &[f32] {
    &numbers.all()[sequence * numbers.strides[0] + head * numbers.strides[1]..]
}

/// Some rows of a head.
fn matrix(
    numbers: &[f32],
    first: usize,
    [rows, width]: [usize; 2],
    stride: usize,
) -> MatRef<'_, f32> {
    let len = (rows - 1) * stride + width;
    let numbers = &numbers[first * stride..][..len];
    MatRef::from_row_major_slice_with_stride(numbers, rows, width, stride)
}

for_processors! {
    /// Makes of products the weights of a softmax, which still have to be divided by the result.
    fn weigh(scores: &mut [f32], scale: f32, cap: Option<f32>, sink: Option<f32>) -> f32 {
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
        total + sink.map_or(0.0, |sink| exp(sink - largest))
    }
}

for_processors! {
    fn add(weight: f32, value: &[f32], out: &mut [f32]) {
        out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
    }
}
