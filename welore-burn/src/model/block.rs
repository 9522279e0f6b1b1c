use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::attend::CausalMask;
use super::attention::{Attention, AttentionConfig};
use super::cache::KvCache;
use super::config::{BlockLayout, DecoderConfig};
use super::mlp::Mlp;
use super::norm::{Norm, NormConfig};
use super::rotary::RotaryTable;

/// One transformer block: attention and an MLP, each added to the residual stream. Which norms there
/// are, and where, is its [layout](BlockLayout).
#[derive(Module, Debug)]
pub struct Block {
    /// Self-attention.
    pub self_attn: Attention,
    /// MLP.
    pub mlp: Mlp,
    /// Norm before attention.
    pub input_layernorm: Option<Norm>,
    /// Norm after attention, or before the MLP.
    pub post_attention_layernorm: Option<Norm>,
    /// Norm before the MLP, where that after attention has the other name.
    pub pre_feedforward_layernorm: Option<Norm>,
    /// Norm after the MLP.
    pub post_feedforward_layernorm: Option<Norm>,
    #[module(skip)]
    layout: BlockLayout,
    #[module(skip)]
    residual_scale: Option<f64>,
}

impl Block {
    pub(super) fn new(config: &DecoderConfig, layer: usize, device: &Device) -> Self {
        let names = config.layout.norms();
        let norm = |name: &str| {
            let config = NormConfig::new(config.hidden_size)
                .with_kind(config.norm)
                .with_epsilon(config.rms_norm_eps);
            names.contains(&Some(name)).then(|| config.init(device))
        };
        Self {
            self_attn: AttentionConfig::from(config)
                .with_scale(config.attention_scale_of(layer))
                .init(device),
            mlp: Mlp::new(config, layer, device),
            input_layernorm: norm("input_layernorm"),
            post_attention_layernorm: norm("post_attention_layernorm"),
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm"),
            post_feedforward_layernorm: norm("post_feedforward_layernorm"),
            layout: config.layout,
            residual_scale: config.residual_scale,
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
        rotary: Option<&RotaryTable>,
        mask: &CausalMask,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Tensor<3> {
        let [before_attention, after_attention, before_mlp, after_mlp] = self.norms();
        let inner = normed(before_attention, x.clone());
        let attended = self.self_attn.forward(inner.clone(), rotary, mask, cache);
        let attended = self.scaled(normed(after_attention, attended));
        let (x, inner) = match self.layout {
            BlockLayout::SharedNorm => (x + attended, inner),
            BlockLayout::Parallel => (x.clone() + attended, normed(before_mlp, x)),
            _ => {
                let x = x + attended;
                (x.clone(), normed(before_mlp, x))
            }
        };
        x + self.scaled(normed(after_mlp, self.mlp.forward(inner)))
    }

    /// Its matrices by their paths, and whether the output of each is added to the residual stream,
    /// in the model's order.
    pub(super) fn matrices(&self) -> Vec<(String, bool)> {
        let adds = self.layout.adds_outputs();
        let attention = self.self_attn.matrices().into_iter();
        let attention = attention.map(|(path, is_output)| (path.to_string(), is_output));
        let all = attention.chain(self.mlp.matrices());
        all.map(|(path, is_output)| (path, is_output && adds)).collect()
    }

    /// The norms before and after attention, then before and after the MLP.
    fn norms(&self) -> [Option<&Norm>; 4] {
        let [input, second, before_mlp, last] = [
            &self.input_layernorm,
            &self.post_attention_layernorm,
            &self.pre_feedforward_layernorm,
            &self.post_feedforward_layernorm,
        ]
        .map(Option::as_ref);
        match self.layout {
            BlockLayout::Before | BlockLayout::Parallel => [input, None, second, None],
            BlockLayout::After => [None, second, None, last],
            BlockLayout::Around => [input, second, before_mlp, last],
            BlockLayout::SharedNorm => [input, None, None, None],
        }
    }

    fn scaled(&self, x: Tensor<3>) -> Tensor<3> {
        match self.residual_scale {
            Some(scale) => x.mul_scalar(scale),
            None => x,
        }
    }
}

fn normed(norm: Option<&Norm>, x: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
