use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, FloatDType, Tensor};
use serde::{Deserialize, Serialize};

use crate::host;

/// What a norm does to its input before it scales the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NormKind {
    /// Divides by the root of the mean square, then multiplies by the weight (arXiv 1910.07467).
    #[default]
    Rms,
    /// The same, but multiplies by 1 plus the weight (Gemma).
    RmsFromOne,
    /// Subtracts the mean and divides by the standard deviation, then multiplies by the weight
    /// (arXiv 1607.06450).
    Layer,
    /// The same, and then adds a bias.
    LayerWithBias,
    /// Subtracts the mean and divides by the standard deviation; nothing is learned (OLMo 1).
    LayerAlone,
}

impl NormKind {
    /// Number of vectors that it learns.
    pub(super) fn vectors(self) -> u128 {
        match self {
            Self::Rms | Self::RmsFromOne | Self::Layer => 1,
            Self::LayerWithBias => 2,
            Self::LayerAlone => 0,
        }
    }

    fn subtracts_mean(self) -> bool {
        matches!(self, Self::Layer | Self::LayerWithBias | Self::LayerAlone)
    }
}

/// Configuration to create a [`Norm`] using the [init function](NormConfig::init).
#[derive(Config, Debug)]
pub struct NormConfig {
    /// The size of the input features.
    pub width: usize,
    /// What it does.
    #[config(default = "NormKind::Rms")]
    pub kind: NormKind,
    /// Added to the mean square, or to the variance.
    #[config(default = 1e-5)]
    pub epsilon: f64,
}

impl NormConfig {
    /// Initialize a new [`Norm`].
    pub fn init(&self, device: &Device) -> Norm {
        let vector = |initializer: Initializer| initializer.init::<1, _>([self.width], device);
        let gamma = match self.kind {
            NormKind::LayerAlone => None,
            NormKind::RmsFromOne => Some(vector(Initializer::Zeros)),
            _ => Some(vector(Initializer::Ones)),
        };
        let has_bias = self.kind == NormKind::LayerWithBias;
        Norm {
            gamma,
            beta: has_bias.then(|| vector(Initializer::Zeros)),
            kind: self.kind,
            epsilon: self.epsilon,
        }
    }
}

/// Normalizes the last axis of its input.
///
/// Should be created with [`NormConfig`]. The names of its parameters are Burn's.
#[derive(Module, Debug)]
pub struct Norm {
    /// Weight, `[width]`, if there is one.
    pub gamma: Option<Param<Tensor<1>>>,
    /// Bias, `[width]`, if there is one.
    pub beta: Option<Param<Tensor<1>>>,
    #[module(skip)]
    kind: NormKind,
    #[module(skip)]
    epsilon: f64,
}

impl Norm {
    /// Applies the norm in f32, whatever the type of its input, which the output has too: in half
    /// precision, squares of small numbers underflow and those of large numbers overflow.
    ///
    /// # Shapes
    ///
    /// - input and output: `[..., width]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let dtype = FloatDType::from(x.dtype());
        if dtype == FloatDType::F32
            && host::is_host(&x.device())
            && let Some(output) = self.on_host(&x)
        {
            return output;
        }
        let x = normalized(x, self.kind.subtracts_mean(), self.epsilon);
        let x = match (&self.gamma, self.kind) {
            (Some(gamma), NormKind::RmsFromOne) => x * (gamma.val() + 1.0).unsqueeze(),
            (Some(gamma), _) => x * gamma.val().unsqueeze(),
            (None, _) => x,
        };
        let x = match &self.beta {
            Some(beta) => x + beta.val().unsqueeze(),
            None => x,
        };
        x.cast(dtype)
    }

    /// In one pass.
    fn on_host<const D: usize>(&self, x: &Tensor<D>) -> Option<Tensor<D>> {
        let offset = if self.kind == NormKind::RmsFromOne { 1.0 } else { 0.0 };
        let (subtracts_mean, epsilon) = (self.kind.subtracts_mean(), self.epsilon);
        let how = host::Normed { subtracts_mean, epsilon, offset };
        let [gamma, beta] = [&self.gamma, &self.beta]
            .map(|vector| vector.as_ref().map(|vector| vector.val().cast(FloatDType::F32)));
        host::norm(x, how, gamma.as_ref(), beta.as_ref())
    }
}

/// The input in f32, divided by the root of its mean square along the last axis, or by its standard
/// deviation after its mean was subtracted.
fn normalized<const D: usize>(x: Tensor<D>, subtracts_mean: bool, epsilon: f64) -> Tensor<D> {
    let x = x.cast(FloatDType::F32);
    let x = match subtracts_mean {
        true => x.clone() - x.mean_dim(D - 1),
        false => x,
    };
    let scale = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    x / scale
}

/// Normalizes each head of its input and multiplies it by weights of its own: subtracts the mean, divides
/// by the standard deviation, and adds no bias. The weights are one tensor, or one for each head, as files
/// have them.
#[derive(Module, Debug)]
pub struct HeadNorm {
    /// Weights of all heads, `[heads, head_dim]`, if they are one tensor (Command R+).
    pub gamma: Option<Param<Tensor<2>>>,
    /// A norm for each head, if they are not (StableLM 2 12B).
    pub norms: Vec<Norm>,
    #[module(skip)]
    epsilon: f64,
}

impl HeadNorm {
    /// Weights of 1 in one tensor.
    pub(super) fn joined(heads: usize, head_dim: usize, epsilon: f64, device: &Device) -> Self {
        let gamma = Initializer::Ones.init::<2, _>([heads, head_dim], device);
        Self { gamma: Some(gamma), norms: Vec::new(), epsilon }
    }

    /// Weights of 1 in a tensor for each head.
    pub(super) fn apart(heads: usize, head_dim: usize, epsilon: f64, device: &Device) -> Self {
        let config = NormConfig { width: head_dim, kind: NormKind::Layer, epsilon };
        Self { gamma: None, norms: (0..heads).map(|_| config.init(device)).collect(), epsilon }
    }

    /// Applies the norms in f32, as [`Norm::forward`].
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, positions, heads, head_dim]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let dtype = FloatDType::from(x.dtype());
        let gamma = match &self.gamma {
            Some(gamma) => gamma.val(),
            None => {
                let weights = self.norms.iter().filter_map(|norm| norm.gamma.as_ref());
                let weights: Vec<Tensor<1>> = weights.map(|gamma| gamma.val()).collect();
                Tensor::stack::<2>(weights, 0)
            }
        };
        (normalized(x, true, self.epsilon) * gamma.unsqueeze()).cast(dtype)
    }
}
