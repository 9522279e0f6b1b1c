use burn::module::Module;
use burn::nn::{Initializer, RmsNorm, RmsNormConfig};
use burn::tensor::activation::silu;
use burn::tensor::{Device, FloatDType, Tensor};

use super::attention::{Attention, AttentionConfig, CausalMask};
use super::cache::KvCache;
use super::config::DecoderConfig;
use super::rotary::RotaryTable;
use crate::linear::{LowRankLinear, LowRankLinearConfig};

/// One pre-norm transformer block: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
#[derive(Module, Debug)]
pub struct Block {
    /// Self-attention.
    pub self_attn: Attention,
    /// Gated MLP.
    pub mlp: Mlp,
    /// Norm before attention.
    pub input_layernorm: RmsNorm,
    /// Norm before the MLP.
    pub post_attention_layernorm: RmsNorm,
}

impl Block {
    pub(super) fn new(config: &DecoderConfig, layer: usize, device: &Device) -> Self {
        let norm = || {
            RmsNormConfig::new(config.hidden_size).with_epsilon(config.rms_norm_eps).init(device)
        };
        Self {
            self_attn: AttentionConfig::from(config).init(device),
            mlp: Mlp::new(config, layer, device),
            input_layernorm: norm(),
            post_attention_layernorm: norm(),
        }
    }

    /// Applies the forward pass on the input tensor; see [`Attention::forward`].
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, positions, hidden_size]`
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotary: &RotaryTable,
        mask: &CausalMask,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Tensor<3> {
        let attended =
            self.self_attn.forward(normed(&self.input_layernorm, x.clone()), rotary, mask, cache);
        let x = x + attended;
        let mixed = self.mlp.forward(normed(&self.post_attention_layernorm, x.clone()));
        x + mixed
    }
}

/// Applies a norm in f32, whatever the type of its input: in half precision, squares of small
/// numbers underflow and those of large numbers overflow.
pub(super) fn normed<const D: usize>(norm: &RmsNorm, x: Tensor<D>) -> Tensor<D> {
    let dtype = FloatDType::from(x.dtype());
    norm.forward(x.cast(FloatDType::F32)).cast(dtype)
}

/// The gated MLP `down(silu(gate(x)) * up(x))` (SwiGLU, arXiv 2002.05202).
#[derive(Module, Debug)]
pub struct Mlp {
    /// Gate projection, `[hidden_size, width]`, with the [width](DecoderConfig::mlp_width) of the
    /// layer.
    pub gate_proj: LowRankLinear,
    /// Up projection, `[hidden_size, width]`.
    pub up_proj: LowRankLinear,
    /// Down projection, `[width, hidden_size]`.
    pub down_proj: LowRankLinear,
}

impl Mlp {
    fn new(config: &DecoderConfig, layer: usize, device: &Device) -> Self {
        let linear = |d_input, d_output| {
            LowRankLinearConfig::new(d_input, d_output)
                .with_bias(config.mlp_bias)
                .with_initializer(Initializer::Normal { mean: 0.0, std: config.initializer_range })
                .init(device)
        };
        let (hidden, inner) = (config.hidden_size, config.mlp_width(layer));
        Self {
            gate_proj: linear(hidden, inner),
            up_proj: linear(hidden, inner),
            down_proj: linear(inner, hidden),
        }
    }

    /// Applies the forward pass on the input tensor.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, positions, hidden_size]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = silu(self.gate_proj.forward(x.clone()));
        self.down_proj.forward(gate * self.up_proj.forward(x))
    }
}
