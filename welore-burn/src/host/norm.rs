use burn::tensor::Tensor;
use rayon::prelude::*;

use super::recorded::{Recorded, record};
use super::{LEAST_WORK, Numbers, tensor};

/// What a norm does to each row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Normed {
    /// Whether the mean is subtracted first.
    pub subtracts_mean: bool,
    /// Added to the mean square.
    pub epsilon: f64,
    /// Added to the weight.
    pub offset: f32,
}

/// The rows along the last axis, divided by the root of their mean square, times a weight and plus a bias
/// if there are such. With gradients only a norm that subtracts no mean and has no bias.
pub(crate) fn norm<const D: usize>(
    x: &Tensor<D>,
    how: Normed,
    gamma: Option<&Tensor<1>>,
    beta: Option<&Tensor<1>>,
) -> Option<Tensor<D>> {
    let recording = x.is_autodiff() || [gamma, beta].iter().flatten().any(|x| x.is_autodiff());
    if !recording {
        let width = x.dims()[D - 1];
        let gamma = weights(gamma, 1.0, how.offset, width)?;
        return normed(x, how, &gamma, &weights(beta, 0.0, 0.0, width)?);
    }
    let gamma = gamma.filter(|_| beta.is_none() && !how.subtracts_mean)?;
    if gamma.dims() != [x.dims()[D - 1]] {
        return None;
    }
    record([x, &gamma.clone().unsqueeze()], |[x, gamma]| {
        let width = gamma.dims().iter().product();
        let gamma: Tensor<1> = gamma.clone().reshape([width]);
        let weights = weights(Some(&gamma), 1.0, how.offset, width)?;
        let output = normed(x, how, &weights, &vec![0.0; width])?;
        Some((output, Rows { x: x.clone(), weights, epsilon: how.epsilon }))
    })
}

/// The numbers of a vector of this width, or as many of another one.
fn weights(
    vector: Option<&Tensor<1>>,
    default: f32,
    offset: f32,
    width: usize,
) -> Option<Vec<f32>> {
    let Some(vector) = vector else { return Some(vec![default; width]) };
    let numbers = Numbers::<1>::in_order(vector)?;
    let found: Vec<f32> = numbers.slice().iter().map(|number| number + offset).collect();
    (found.len() == width).then_some(found)
}

/// Numbers of whole rows, about as many as a thread should have.
fn at_once(width: usize) -> usize {
    (LEAST_WORK / width.max(1)).max(1) * width.max(1)
}

fn normed<const D: usize>(
    x: &Tensor<D>,
    how: Normed,
    gamma: &[f32],
    beta: &[f32],
) -> Option<Tensor<D>> {
    let numbers = Numbers::<D>::in_order(x)?;
    let mut out = vec![0.0; numbers.slice().len()];
    let at_once = at_once(gamma.len());
    let parts = out.par_chunks_mut(at_once).zip(numbers.slice().par_chunks(at_once));
    parts.for_each(|(out, x)| rows(x, how.subtracts_mean, how.epsilon, gamma, beta, out));
    Some(tensor(out, x.dims(), &x.device()))
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct Rows<const D: usize> {
    x: Tensor<D>,
    weights: Vec<f32>,
    epsilon: f64,
}

impl<const D: usize> Recorded<D, 2> for Rows<D> {
    fn gradients(self, gradient: Tensor<D>, needed: [bool; 2]) -> [Option<Tensor<D>>; 2] {
        let [Some(x), Some(gradients)] = [&self.x, &gradient].map(Numbers::<D>::in_order) else {
            return [None, None];
        };
        let (width, device) = (self.weights.len(), gradient.device());
        let mut out = vec![0.0; x.slice().len()];
        let at_once = at_once(width);
        let inputs = x.slice().par_chunks(at_once).zip(gradients.slice().par_chunks(at_once));
        // The sums of all parts are added up in their order.
        let sums: Vec<Vec<f64>> = out
            .par_chunks_mut(at_once)
            .zip(inputs)
            .map(|(out, (x, gradient))| {
                let mut sums = vec![0.0f64; width];
                rows_back(x, gradient, &self.weights, self.epsilon, out, &mut sums);
                sums
            })
            .collect();
        let of_weights = needed[1].then(|| {
            let mut totals = vec![0.0f64; width];
            for sums in sums {
                totals.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            }
            let totals: Vec<f32> = totals.into_iter().map(|total| total as f32).collect();
            let mut dims = [1; D];
            dims[D - 1] = width;
            tensor(totals, dims, &device)
        });
        [needed[0].then(|| tensor(out, gradient.dims(), &device)), of_weights]
    }
}

for_processors! {
    /// Gradients of the numbers of rows, and what their weights get of each.
    fn rows_back(
        x: &[f32],
        gradient: &[f32],
        weights: &[f32],
        epsilon: f64,
        out: &mut [f32],
        sums: &mut [f64],
    ) {
        let width = weights.len();
        let inputs = x.chunks_exact(width).zip(gradient.chunks_exact(width));
        for ((x, gradient), out) in inputs.zip(out.chunks_exact_mut(width)) {
            let square = sum(x, |x| x * x) / width as f64;
            let scale = (1.0 / (square + epsilon).sqrt()) as f32;
            for (((out, gradient), x), (weight, sum)) in
                out.iter_mut().zip(gradient).zip(x).zip(weights.iter().zip(sums.iter_mut()))
            {
                let normed = x * scale;
                *sum += f64::from(gradient * normed);
                *out = gradient * weight;
            }
            // The mean of `out · x`, in sixteen parts.
            let mut shares = [0.0f32; 16];
            let ((runs, rest), (inputs, inputs_rest)) = (out.as_chunks::<16>(), x.as_chunks::<16>());
            for (run, inputs) in runs.iter().zip(inputs) {
                for ((share, out), x) in shares.iter_mut().zip(run).zip(inputs) {
                    *share += out * x;
                }
            }
            let rest: f32 = rest.iter().zip(inputs_rest).map(|(out, x)| out * x).sum();
            let mean = (shares.iter().sum::<f32>() + rest) / width as f32;
            let along = mean * scale * scale;
            for (out, x) in out.iter_mut().zip(x) {
                *out = (*out - x * along) * scale;
            }
        }
    }
}

for_processors! {
    fn rows(
        x: &[f32],
        subtracts_mean: bool,
        epsilon: f64,
        gamma: &[f32],
        beta: &[f32],
        out: &mut [f32],
    ) {
        let width = gamma.len();
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let mean = match subtracts_mean {
                true => (sum(x, |x| x) / width as f64) as f32,
                false => 0.0,
            };
            let square = sum(x, |x| (x - mean) * (x - mean)) / width as f64;
            let scale = (1.0 / (square + epsilon).sqrt()) as f32;
            for (((out, x), gamma), beta) in out.iter_mut().zip(x).zip(gamma).zip(beta) {
                *out = (x - mean) * scale * gamma + beta;
            }
        }
    }
}

/// A sum in sixteen parts, which lose less than one, and are added up side by side.
#[inline(always)]
fn sum(x: &[f32], of: impl Fn(f32) -> f32) -> f64 {
    let mut sums = [0.0f32; 16];
    let (runs, rest) = x.as_chunks::<16>();
    for run in runs {
        for (sum, x) in sums.iter_mut().zip(run) {
            *sum += of(*x);
        }
    }
    let rest: f64 = rest.iter().map(|x| f64::from(of(*x))).sum();
    sums.iter().map(|sum| f64::from(*sum)).sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    #[test]
    fn norms_are_what_they_are_by_definition() {
        let device = Device::flex();
        let x = Tensor::<3>::random([3, 50, 579], Distribution::Normal(0.5, 2.0), &device);
        let vector = || Tensor::<1>::random([579], Distribution::Normal(0.0, 1.0), &device);
        let (gamma, beta) = (vector(), vector());
        for (subtracts_mean, offset) in [(false, 0.0), (true, 0.0), (false, 1.0)] {
            let how = Normed { subtracts_mean, epsilon: 0.1, offset };
            let y = match subtracts_mean {
                true => x.clone() - x.clone().mean_dim(2),
                false => x.clone(),
            };
            let y = y.clone() / (y.square().mean_dim(2) + 0.1).sqrt();
            let weighted =
                y.clone() * (gamma.clone() + offset).unsqueeze() + beta.clone().unsqueeze();
            for (got, expected) in [
                (norm(&x, how, Some(&gamma), Some(&beta)), weighted),
                (norm(&x, how, None, None), y),
            ] {
                let tolerance = Tolerance::rel_abs(1e-5, 1e-5);
                let got = got.unwrap().into_data();
                got.assert_approx_eq::<f32>(&expected.into_data(), tolerance);
            }
        }
    }

    #[test]
    fn rows_do_not_have_to_be_in_order() {
        let device = Device::flex();
        let x = Tensor::<2>::random([64, 48], Distribution::Normal(0.0, 1.0), &device);
        let how = Normed { subtracts_mean: false, epsilon: 1e-5, offset: 0.0 };
        let turned = x.clone().transpose();
        let copied = Tensor::<2>::from_data(turned.clone().into_data(), &device);
        let [got, expected] = [turned, copied].map(|x| norm(&x, how, None, None).unwrap());
        assert_eq!(got.into_data(), expected.into_data());
    }

    #[test]
    fn gradients_are_those_of_burn() {
        let plain = Device::flex();
        let random =
            |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &plain);
        let (x, weights) = (random([3, 50, 579]), Tensor::from_inner(random([3, 50, 579])));
        let gamma = random([1, 1, 579]).reshape([579]);
        let how = Normed { subtracts_mean: false, epsilon: 0.1, offset: 1.0 };
        let leaves = || {
            let x = Tensor::<3>::from_inner(x.clone()).require_grad();
            (x, Tensor::<1>::from_inner(gamma.clone()).require_grad())
        };
        let (x, gamma) = leaves();
        let got = norm(&x, how, Some(&gamma), None).unwrap();
        let got = (got * weights.clone()).sum().backward();
        let (y, delta) = leaves();
        let normed = y.clone() / (y.clone().square().mean_dim(2) + 0.1).sqrt();
        let expected = normed * (delta.clone() + 1.0).unsqueeze() * weights;
        let expected = expected.sum().backward();
        let tolerance = Tolerance::rel_abs(1e-4, 1e-5);
        let of_x = y.grad(&expected).unwrap().into_data();
        x.grad(&got).unwrap().into_data().assert_approx_eq::<f32>(&of_x, tolerance);
        let of_gamma = delta.grad(&expected).unwrap().into_data();
        gamma.grad(&got).unwrap().into_data().assert_approx_eq::<f32>(&of_gamma, tolerance);
    }
}
