use burn::tensor::Tensor;
use rayon::prelude::*;

use super::recorded::{Recorded, record};
use super::{LEAST_WORK, Numbers, tensor};

/// Queries or keys `[batch, positions, heads, width]` with pairs of their first channels rotated by angles
/// whose cosines and sines are `[1, positions, 1, pairs]`: neighbours, or each channel of the first half
/// of them with its counterpart in the second half.
pub(crate) fn rotated(
    x: &Tensor<4>,
    cos: &Tensor<4>,
    sin: &Tensor<4>,
    neighbours: bool,
) -> Option<Tensor<4>> {
    let [cos, sin] = [cos, sin].map(|angles| angles.clone().without_autodiff());
    if !x.is_autodiff() {
        return turned(x, &cos, &sin, neighbours);
    }
    record([x], |[x]| {
        let output = turned(x, &cos, &sin, neighbours)?;
        Some((output, Angles { cos, sin, neighbours }))
    })
}

/// What the backward pass needs: it turns gradients back.
#[derive(Debug, Clone)]
struct Angles {
    cos: Tensor<4>,
    sin: Tensor<4>,
    neighbours: bool,
}

impl Recorded<4, 1> for Angles {
    fn gradients(self, gradient: Tensor<4>, _needed: [bool; 1]) -> [Option<Tensor<4>>; 1] {
        [turned(&gradient, &self.cos, &self.sin.neg(), self.neighbours)]
    }
}

fn turned(x: &Tensor<4>, cos: &Tensor<4>, sin: &Tensor<4>, neighbours: bool) -> Option<Tensor<4>> {
    let [batch, positions, heads, width] = x.dims();
    let [_, angles, _, pairs] = cos.dims();
    if angles != positions || 2 * pairs > width || batch * positions * heads * width == 0 {
        return None;
    }
    let (numbers, cos, sin) =
        (Numbers::<4>::in_order(x)?, Numbers::<4>::in_order(cos)?, Numbers::<4>::in_order(sin)?);
    let mut out = numbers.slice().to_vec();
    // All heads of a position.
    let row = heads * width;
    let rows_at_once = (LEAST_WORK / row).max(1);
    out.par_chunks_mut(rows_at_once * row).enumerate().for_each(|(part, rows)| {
        for (index, heads) in rows.chunks_exact_mut(row).enumerate() {
            let position = (part * rows_at_once + index) % positions;
            let angles = position * pairs..(position + 1) * pairs;
            let (cos, sin) = (&cos.slice()[angles.clone()], &sin.slice()[angles]);
            match neighbours {
                true => rotate_neighbours(heads, width, cos, sin),
                false => rotate_halves(heads, width, cos, sin),
            }
        }
    });
    Some(tensor(out, x.dims(), &x.device()))
}

for_processors! {
    fn rotate_halves(heads: &mut [f32], width: usize, cos: &[f32], sin: &[f32]) {
        for head in heads.chunks_exact_mut(width) {
            let (first, second) = head[..2 * cos.len()].split_at_mut(cos.len());
            for (((first, second), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let (x, y) = (*first, *second);
                *first = x * cos - y * sin;
                *second = y * cos + x * sin;
            }
        }
    }
}

fn rotate_neighbours(heads: &mut [f32], width: usize, cos: &[f32], sin: &[f32]) {
    for head in heads.chunks_exact_mut(width) {
        for (([first, second], cos), sin) in head.as_chunks_mut().0.iter_mut().zip(cos).zip(sin) {
            let (x, y) = (*first, *second);
            *first = x * cos - y * sin;
            *second = y * cos + x * sin;
        }
    }
}
