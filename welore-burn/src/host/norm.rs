use burn::tensor::{Device, Tensor};
use rayon::prelude::*;

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
/// if there are such.
pub(crate) fn norm<const D: usize>(
    x: &Tensor<D>,
    how: Normed,
    gamma: Option<&Tensor<1>>,
    beta: Option<&Tensor<1>>,
) -> Option<Tensor<D>> {
    let width = x.dims()[D - 1];
    let numbers = Numbers::<D>::in_order(x)?;
    let of = |vector: Option<&Tensor<1>>, default: f32, offset: f32| match vector {
        Some(vector) => {
            let numbers = Numbers::<1>::in_order(vector)?;
            let found: Vec<f32> = numbers.slice().iter().map(|number| number + offset).collect();
            (found.len() == width).then_some(found)
        }
        None => Some(vec![default; width]),
    };
    let (gamma, beta) = (of(gamma, 1.0, how.offset)?, of(beta, 0.0, 0.0)?);
    let mut out = vec![0.0; numbers.slice().len()];
    let at_once = (LEAST_WORK / width.max(1)).max(1) * width.max(1);
    let parts = out.par_chunks_mut(at_once).zip(numbers.slice().par_chunks(at_once));
    parts.for_each(|(out, x)| {
        rows(x, how.subtracts_mean, how.epsilon, &gamma, &beta, out);
    });
    Some(tensor(out, x.dims(), &x.device()))
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
    use burn::tensor::{Distribution, Tolerance};

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
}
