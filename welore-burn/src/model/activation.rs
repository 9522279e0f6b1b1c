use burn::tensor::activation::{gelu, relu, silu};
use burn::tensor::{FloatDType, Tensor};
use serde::{Deserialize, Serialize};

use crate::host;

/// The function between the matrices of an MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Activation {
    /// `x · sigmoid(x)` (arXiv 1710.05941).
    #[default]
    Silu,
    /// `x · Φ(x)` with the distribution function of the normal distribution (arXiv 1606.08415).
    Gelu,
    /// The same with the hyperbolic tangent in place of the error function.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)²` (arXiv 2109.08668).
    Relu2,
}

/// Names in a `config.json`. The first one of each is its name in messages.
const NAMES: [(&str, Activation); 8] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu", Activation::Gelu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("relu2", Activation::Relu2),
];

/// The names above, for messages.
pub(super) const KNOWN: &str = "silu, gelu, gelu_pytorch_tanh, relu and relu2";

impl Activation {
    /// The activation of this name in a `config.json`.
    pub(super) fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation)
    }

    /// The activation of each number, times another number.
    ///
    /// # Shapes
    ///
    /// - inputs and output: the same
    pub fn gate<const D: usize>(self, x: Tensor<D>, other: Tensor<D>) -> Tensor<D> {
        let gate = match self {
            Self::Silu => Some(host::Gate::Silu),
            Self::GeluTanh => Some(host::Gate::GeluTanh),
            Self::Gelu | Self::Relu | Self::Relu2 => None,
        };
        match gate.and_then(|gate| host::gated(gate, &x, &other)) {
            Some(output) => output,
            None => self.forward(x) * other,
        }
    }

    /// Applies the activation to each number.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Silu => silu(x),
            Self::Gelu => gelu(x),
            Self::GeluTanh => gelu_tanh(x),
            Self::Relu => relu(x),
            Self::Relu2 => relu(x).square(),
        }
    }
}

/// In f32, because 1 + tanh cancels below 0. Not Burn's `gelu_approximate`: its power of a negative
/// number is NaN on some devices.
fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let dtype = FloatDType::from(x.dtype());
    let x = x.cast(FloatDType::F32);
    let cube = x.clone().square() * x.clone();
    let inner = (x.clone() + cube.mul_scalar(0.044_715)).mul_scalar(SQRT_2_OVER_PI);
    (x * (inner.tanh() + 1.0)).mul_scalar(0.5).cast(dtype)
}

const SQRT_2_OVER_PI: f64 = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
