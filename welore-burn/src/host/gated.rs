use burn::tensor::Tensor;
use rayon::prelude::*;

use super::exp::exp;
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
        const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769_1;
        for ((out, x), other) in out.iter_mut().zip(x).zip(other) {
            let inner = TWICE_SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
            *out = x / (1.0 + exp(-inner)) * other;
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
    fn what_records_gradients_is_left_to_burn() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::ones([5], &device);
        assert!(gated(Gate::Silu, &x, &x).is_none());
    }
}
