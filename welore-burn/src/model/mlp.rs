use burn::module::Module;
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

use super::activation::Activation;
use super::config::{DecoderConfig, MlpLayout};
use crate::linear::{LowRankLinear, LowRankLinearConfig};

/// An MLP, with or without a gate; which matrices there are is its [layout](MlpLayout).
#[derive(Module, Debug)]
pub struct Mlp {
    /// Gate projection, `[hidden_size, width]`, with the [width](DecoderConfig::mlp_width) of the
    /// layer.
    pub gate_proj: Option<LowRankLinear>,
    /// Up projection, `[hidden_size, width]`.
    pub up_proj: Option<LowRankLinear>,
    /// Gate and up projection in one, `[hidden_size, 2 * width]`.
    pub gate_up_proj: Option<LowRankLinear>,
    /// Up projection, as StarCoder2 names it.
    pub c_fc: Option<LowRankLinear>,
    /// Down projection, `[width, hidden_size]`.
    pub down_proj: Option<LowRankLinear>,
    /// Down projection, as StarCoder2 names it.
    pub c_proj: Option<LowRankLinear>,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    pub(super) fn new(config: &DecoderConfig, layer: usize, device: &Device) -> Self {
        let linear = |d_input, d_output| {
            LowRankLinearConfig::new(d_input, d_output)
                .with_bias(config.mlp_bias)
                .with_initializer(Initializer::Normal { mean: 0.0, std: config.initializer_range })
                .init(device)
        };
        let (hidden, inner) = (config.hidden_size, config.mlp_width(layer));
        let up = |has: bool| has.then(|| linear(hidden, inner));
        let down = |has: bool| has.then(|| linear(inner, hidden));
        let layout = config.mlp;
        let is_short = layout == MlpLayout::PlainC;
        Self {
            gate_proj: up(layout == MlpLayout::Gated),
            up_proj: up(matches!(layout, MlpLayout::Gated | MlpLayout::Plain)),
            gate_up_proj: (layout == MlpLayout::FusedGated).then(|| linear(hidden, 2 * inner)),
            c_fc: up(is_short),
            down_proj: down(!is_short),
            c_proj: down(is_short),
            activation: config.activation,
        }
    }

    /// Applies the forward pass on the input tensor.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, positions, hidden_size]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let down = self.down_proj.as_ref().or(self.c_proj.as_ref());
        down.expect("an MLP has a down projection").forward(self.inner(x))
    }

    /// The input of the down projection.
    fn inner(&self, x: Tensor<3>) -> Tensor<3> {
        if let Some(fused) = &self.gate_up_proj {
            let both = fused.forward(x);
            let width = both.dims()[2] / 2;
            let gate = self.activation.forward(both.clone().narrow(2, 0, width));
            return gate * both.narrow(2, width, width);
        }
        let up = self.up_proj.as_ref().or(self.c_fc.as_ref());
        let up = up.expect("an MLP has an up projection");
        match &self.gate_proj {
            Some(gate) => self.activation.forward(gate.forward(x.clone())) * up.forward(x),
            None => self.activation.forward(up.forward(x)),
        }
    }

    /// Its matrices by their paths in a block, and whether each gives the output.
    pub(super) fn matrices(&self) -> Vec<(&'static str, bool)> {
        let all = [
            ("mlp.gate_proj", &self.gate_proj, false),
            ("mlp.up_proj", &self.up_proj, false),
            ("mlp.gate_up_proj", &self.gate_up_proj, false),
            ("mlp.c_fc", &self.c_fc, false),
            ("mlp.down_proj", &self.down_proj, true),
            ("mlp.c_proj", &self.c_proj, true),
        ];
        let present = all.into_iter().filter(|(_, matrix, _)| matrix.is_some());
        present.map(|(path, _, is_output)| (path, is_output)).collect()
    }
}
