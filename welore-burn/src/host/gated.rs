use burn::tensor::Tensor;
use rayon::prelude::*;

use super::exp::exp;
use super::recorded::{Recorded, record};
use super::{LEAST_WORK, Numbers, tensor};

/// What the gate of an MLP does to each number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// `x · sigmoid(x)`.
    Silu,
    /// `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
    GeluTanh,
}

/// `gate(x) · other`, of the same shape.
pub(crate) fn gated<const D: usize>(
    gate: Gate,
    x: &Tensor<D>,
    other: &Tensor<D>,
) -> Option<Tensor<D>> {
    if !x.is_autodiff() && !other.is_autodiff() {
        return forward(gate, x, other);
    }
    record([x, other], |[x, other]| {
        let output = forward(gate, x, other)?;
        Some((output, Inputs { gate, x: x.clone(), other: other.clone() }))
    })
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct Inputs<const D: usize> {
    gate: Gate,
    x: Tensor<D>,
    other: Tensor<D>,
}

impl<const D: usize> Recorded<D, 2> for Inputs<D> {
    fn gradients(self, gradient: Tensor<D>, _needed: [bool; 2]) -> [Option<Tensor<D>>; 2] {
        let [Some(gradients), Some(x), Some(other)] =
            [&gradient, &self.x, &self.other].map(Numbers::<D>::in_order)
        else {
            return [None, None];
        };
        let count = x.slice().len();
        let (mut of_x, mut of_other) = (vec![0.0; count], vec![0.0; count]);
        let back = match self.gate {
            Gate::Silu => silu_back,
            Gate::GeluTanh => gelu_tanh_back,
        };
        let outputs = of_x.par_chunks_mut(LEAST_WORK).zip(of_other.par_chunks_mut(LEAST_WORK));
        let inputs = x.slice().par_chunks(LEAST_WORK).zip(other.slice().par_chunks(LEAST_WORK));
        let inputs = inputs.zip(gradients.slice().par_chunks(LEAST_WORK));
        outputs.zip(inputs).for_each(|((of_x, of_other), ((x, other), gradient))| {
            back(x, other, gradient, of_x, of_other);
        });
        [of_x, of_other].map(|numbers| Some(tensor(numbers, gradient.dims(), &gradient.device())))
    }
}

fn forward<const D: usize>(gate: Gate, x: &Tensor<D>, other: &Tensor<D>) -> Option<Tensor<D>> {
    if x.dims() != other.dims() {
        return None;
    }
    let (numbers, others) = (Numbers::<D>::in_order(x)?, Numbers::<D>::in_order(other)?);
    let mut out = vec![0.0; numbers.slice().len()];
    let apply = match gate {
        Gate::Silu => silu,
        Gate::GeluTanh => gelu_tanh,
    };
    let parts = out.par_chunks_mut(LEAST_WORK);
    let inputs = numbers.slice().par_chunks(LEAST_WORK).zip(others.slice().par_chunks(LEAST_WORK));
    parts.zip(inputs).for_each(|(out, (x, other))| apply(x, other, out));
    Some(tensor(out, x.dims(), &x.device()))
}

const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;

for_processors! {
    fn silu(x: &[f32], other: &[f32], out: &mut [f32]) {
        for ((out, x), other) in out.iter_mut().zip(x).zip(other) {
            *out = x / (1.0 + exp(-x)) * other;
        }
    }
}

for_processors! {
    /// With `(1 + tanh(y)) / 2 = 1 / (1 + e^(-2y))`, in which nothing cancels.
    fn gelu_tanh(x: &[f32], other: &[f32], out: &mut [f32]) {
        for ((out, x), other) in out.iter_mut().zip(x).zip(other) {
            let inner = TWICE_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
            *out = x / (1.0 + exp(-inner)) * other;
        }
    }
}

for_processors! {
    fn silu_back(x: &[f32], other: &[f32], gradient: &[f32], of_x: &mut [f32], of_other: &mut [f32]) {
        let outputs = of_x.iter_mut().zip(of_other);
        for (((of_x, of_other), gradient), (x, other)) in outputs.zip(gradient).zip(x.iter().zip(other)) {
            let open = 1.0 / (1.0 + exp(-x));
            *of_other = gradient * x * open;
            *of_x = gradient * other * open * (1.0 + x * (1.0 - open));
        }
    }
}

for_processors! {
    fn gelu_tanh_back(
        x: &[f32],
        other: &[f32],
        gradient: &[f32],
        of_x: &mut [f32],
        of_other: &mut [f32],
    ) {
        let outputs = of_x.iter_mut().zip(of_other);
        for (((of_x, of_other), gradient), (x, other)) in outputs.zip(gradient).zip(x.iter().zip(other)) {
            let inner = TWICE_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
            let slope = TWICE_SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044_715 * x * x);
            let open = 1.0 / (1.0 + exp(-inner));
            *of_other = gradient * x * open;
            *of_x = gradient * other * open * (1.0 + x * slope * (1.0 - open));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;

    #[test]
    fn gates_are_what_burn_computes() {
        let device = Device::flex();
        let random =
            |scale| Tensor::<3>::random([3, 7, 4099], Distribution::Normal(0.0, scale), &device);
        let (x, other) = (random(4.0), random(1.0));
        let check = |got: Option<Tensor<3>>, expected: Tensor<3>| {
            let tolerance = Tolerance::rel_abs(1e-6, 1e-6);
            got.unwrap().into_data().assert_approx_eq::<f32>(&expected.into_data(), tolerance);
        };
        let silu = burn::tensor::activation::silu(x.clone()) * other.clone();
        check(gated(Gate::Silu, &x, &other), silu);
        let cube = x.clone() * x.clone() * x.clone();
        let scale = (2.0 / std::f64::consts::PI).sqrt();
        let inner = (x.clone() + cube.mul_scalar(0.044_715)).mul_scalar(scale);
        let gelu = x.clone().mul_scalar(0.5) * (inner.tanh() + 1.0) * other.clone();
        check(gated(Gate::GeluTanh, &x, &other), gelu);
    }

    #[test]
    fn far_from_zero_a_gate_is_open_or_closed_and_nan_stays_nan() {
        let device = Device::flex();
        let x = Tensor::<1>::from_data([-1e4f32, -100.0, 100.0, 1e4, f32::NAN], &device);
        let ones = Tensor::<1>::ones([5], &device);
        for gate in [Gate::Silu, Gate::GeluTanh] {
            let got = gated(gate, &x, &ones).unwrap().into_data().try_into_vec::<f32>().unwrap();
            assert_eq!(got[..4], [0.0, 0.0, 100.0, 1e4], "{gate:?}");
            assert!(got[4].is_nan(), "{gate:?}");
        }
    }

    #[test]
    fn gradients_are_those_of_burn() {
        let plain = Device::flex();
        let random = |scale| {
            let shape = [3, 7, 1031];
            Tensor::<3>::random(shape, Distribution::Normal(0.0, scale), &plain)
        };
        let (x, other, weights) = (random(3.0), random(1.0), Tensor::from_inner(random(1.0)));
        let leaves = || [&x, &other].map(|x| Tensor::from_inner(x.clone()).require_grad());
        for gate in [Gate::Silu, Gate::GeluTanh] {
            let [x, other] = leaves();
            let got = gated(gate, &x, &other).unwrap();
            let got = (got * weights.clone()).sum().backward();
            let [x_again, other_again] = leaves();
            let y = x_again.clone();
            let opened = match gate {
                Gate::Silu => burn::tensor::activation::silu(y),
                Gate::GeluTanh => {
                    let cube = y.clone() * y.clone() * y.clone();
                    let scale = (2.0 / std::f64::consts::PI).sqrt();
                    let inner = (y.clone() + cube.mul_scalar(0.044_715)).mul_scalar(scale);
                    y.mul_scalar(0.5) * (inner.tanh() + 1.0)
                }
            };
            let expected = (opened * other_again.clone() * weights.clone()).sum().backward();
            for (leaf, reference) in [(x, x_again), (other, other_again)] {
                let expected = reference.grad(&expected).unwrap().into_data();
                let got = leaf.grad(&got).unwrap().into_data();
                got.assert_approx_eq::<f32>(&expected, Tolerance::rel_abs(1e-5, 1e-5));
            }
        }
    }

    #[test]
    fn an_input_without_gradients_gets_none() {
        let device = Device::flex();
        let x = Tensor::<1>::from_data([1.0f32, -2.0], &device.clone().autodiff()).require_grad();
        let other = Tensor::<1>::from_data([3.0f32, 4.0], &device.autodiff());
        let gradients = gated(Gate::Silu, &x, &other).unwrap().sum().backward();
        assert!(x.grad(&gradients).is_some());
        assert!(other.grad(&gradients).is_none());
    }
}
