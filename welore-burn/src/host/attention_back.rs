//! The backward pass of attention. Weights are computed again, block by block, from the logarithms of the
//! sums of their exponentials; none are kept.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::attention::{BLOCK, Work, head, matrix};
use super::exp::exp;
use super::recorded::Recorded;
use super::rows::dot;
use super::{Numbers, tensor};
use crate::linalg::{Rows, Written, multiply_into};

/// What the backward pass needs.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// Queries, keys and values.
    pub inputs: [Tensor<4>; 3],
    pub output: Tensor<4>,
    /// `[batch, rows, heads]`.
    pub log_sums: Vec<f32>,
    pub window: Option<usize>,
    pub cap: Option<f64>,
}

impl Recorded<4, 3> for Kept {
    fn gradients(self, gradient: Tensor<4>, _needed: [bool; 3]) -> [Option<Tensor<4>>; 3] {
        let inputs = self.inputs.each_ref();
        let work = Work::new(inputs, self.window, self.cap, None);
        let outputs = [&gradient, &self.output].map(Numbers::<4>::in_order);
        let (Some(work), [Some(gradients), Some(output)]) = (work, outputs) else {
            return [None, None, None];
        };
        let device = gradient.device();
        let mut found = inputs.map(|input| vec![0.0f32; input.shape().num_elements()]);
        let [of_queries, of_keys, of_values] = &mut found;
        let ([_, kv_heads, cols, width], [_, _, _, out_width]) = (work.keys.dims, work.values.dims);
        let [_, _, rows, _] = work.queries.dims;
        let of_heads = of_queries
            .par_chunks_exact_mut(work.group * rows * width)
            .zip(of_keys.par_chunks_exact_mut(cols * width))
            .zip(of_values.par_chunks_exact_mut(cols * out_width));
        of_heads.enumerate().for_each(|(index, ((of_queries, of_keys), of_values))| {
            let place = [index / kv_heads, index % kv_heads];
            let pass = Pass {
                work: &work,
                gradients: &gradients,
                output: &output,
                log_sums: &self.log_sums,
            };
            pass.of_head(place, of_queries, of_keys, of_values);
        });
        let mut shapes = self.inputs.iter().map(|input| input.dims());
        found.map(|numbers| shapes.next().map(|dims| tensor(numbers, dims, &device)))
    }
}

struct Pass<'a> {
    work: &'a Work<'a>,
    gradients: &'a Numbers<4>,
    output: &'a Numbers<4>,
    log_sums: &'a [f32],
}

impl Pass<'_> {
    /// The gradients of a head of keys, and of the heads of queries that share it.
    fn of_head(
        &self,
        [sequence, kv_head]: [usize; 2],
        of_queries: &mut [f32],
        of_keys: &mut [f32],
        of_values: &mut [f32],
    ) {
        let [_, _, rows, width] = self.work.queries.dims;
        let (mut weights, mut slopes) = (Vec::new(), Vec::new());
        for (index, of_queries) in of_queries.chunks_exact_mut(rows * width).enumerate() {
            let number = kv_head * self.work.group + index;
            for (block, of_queries) in of_queries.chunks_mut(BLOCK * width).enumerate() {
                let block = Block {
                    sequence,
                    kv_head,
                    number,
                    first: block * BLOCK,
                    count: of_queries.len() / width,
                };
                self.of_block(
                    &block,
                    (&mut weights, &mut slopes),
                    [of_queries, of_keys, of_values],
                );
            }
        }
    }

    fn of_block(
        &self,
        block: &Block,
        (weights, slopes): (&mut Vec<f32>, &mut Vec<f32>),
        [of_queries, of_keys, of_values]: [&mut [f32]; 3],
    ) {
        let Self { work, gradients, .. } = *self;
        let Block { sequence, kv_head, number, first, count } = *block;
        let ([.., width], [.., out_width]) = (work.queries.dims, work.values.dims);
        let seen = work.seen(first).start..work.seen(first + count - 1).end;
        for numbers in [&mut *weights, &mut *slopes] {
            numbers.clear();
            numbers.resize(count * seen.len(), 0.0);
        }
        let part = |numbers, number, first, shape, stride| {
            matrix(head(numbers, sequence, number), first, shape, stride)
        };
        let (queries, keys, values) = (&work.queries, &work.keys, &work.values);
        let queries = part(queries, number, first, [count, width], queries.strides[2]);
        let keys = part(keys, kv_head, seen.start, [seen.len(), width], keys.strides[2]);
        let values = part(values, kv_head, seen.start, [seen.len(), out_width], values.strides[2]);
        let gradient = part(gradients, number, first, [count, out_width], out_width);

        let over = Written::Over;
        multiply_into(weights, seen.len(), over, queries, keys.transposed());
        multiply_into(slopes, seen.len(), over, gradient, values.transposed());
        self.slopes_of_rows(block, seen.start, weights, slopes);

        let [weights, slopes] = [&*weights, &*slopes]
            .map(|numbers| Rows::new(numbers, [count, seen.len()], seen.len()));
        multiply_into(of_queries, width, over, slopes, keys);
        let of_keys = &mut of_keys[seen.start * width..seen.end * width];
        multiply_into(of_keys, width, Written::Added, slopes.transposed(), queries);
        let of_values = &mut of_values[seen.start * out_width..seen.end * out_width];
        multiply_into(of_values, out_width, Written::Added, weights.transposed(), gradient);
    }

    /// Makes weights of products, and the gradients of the products of those of the weights.
    fn slopes_of_rows(&self, block: &Block, start: usize, weights: &mut [f32], slopes: &mut [f32]) {
        let Block { sequence, number, first, count, .. } = *block;
        let ([_, heads, rows, _], [_, _, _, width]) =
            (self.work.queries.dims, self.work.values.dims);
        let cols = weights.len() / count;
        let row_of = |numbers, row: usize| &head(numbers, sequence, number)[row * width..][..width];
        let both = weights.chunks_exact_mut(cols).zip(slopes.chunks_exact_mut(cols));
        for (index, (weights, slopes)) in both.enumerate() {
            let row = first + index;
            let own = self.work.seen(row);
            let (before, own) = (own.start - start, own.end - start);
            for numbers in [&mut *weights, &mut *slopes] {
                numbers[..before].fill(0.0);
                numbers[own..].fill(0.0);
            }
            let along = dot(row_of(self.gradients, row), row_of(self.output, row));
            let log_sum = self.log_sums[(sequence * rows + row) * heads + number];
            let (weights, slopes) = (&mut weights[before..own], &mut slopes[before..own]);
            slopes_of(weights, slopes, self.work.scale, self.work.cap, along, log_sum);
        }
    }
}

/// Some queries of a head.
struct Block {
    sequence: usize,
    kv_head: usize,
    number: usize,
    first: usize,
    count: usize,
}

for_processors! {
    fn slopes_of(
        weights: &mut [f32],
        slopes: &mut [f32],
        scale: f32,
        cap: Option<f32>,
        along: f32,
        log_sum: f32,
    ) {
        match cap {
            None => {
                for (weight, slope) in weights.iter_mut().zip(slopes) {
                    *weight = exp(*weight * scale - log_sum);
                    *slope = *weight * (*slope - along) * scale;
                }
            }
            Some(cap) => {
                for (weight, slope) in weights.iter_mut().zip(slopes) {
                    let capped = (*weight * scale / cap).tanh();
                    *weight = exp(capped * cap - log_sum);
                    *slope = *weight * (*slope - along) * scale * (1.0 - capped * capped);
                }
            }
        }
    }
}
