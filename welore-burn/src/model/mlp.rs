use burn::module::Module;
use burn::nn::Initializer;
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Tensor};

use super::activation::Activation;
use super::config::{DecoderConfig, MlpLayout};
use super::mixture::{Expert, MixtureConfig, Router, Routing};
use crate::linear::{LowRankLinear, LowRankLinearConfig};

/// An MLP, with or without a gate; which matrices there are is its [layout](MlpLayout). In the layers
/// of a [mixture](MixtureConfig) it has experts instead, and a router that chooses between them.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Gate projection, `[hidden_size, width]`, with the [width](DecoderConfig::mlp_width) of the
    /// layer.
    pub gate_proj: Option<LowRankLinear>,
    /// Up projection, `[hidden_size, width]`.
    pub up_proj: Option<LowRankLinear>,
    /// Gate and up projection in one, `[hidden_size, 2 * width]`.
    pub gate_up_proj: Option<LowRankLinear>,
    /// Down projection, `[width, hidden_size]`.
    pub down_proj: Option<LowRankLinear>,
    /// Router, which chooses between experts.
    pub gate: Option<Router>,
    /// The experts.
    pub experts: Vec<Expert>,
    /// An expert that sees all tokens.
    pub shared_expert: Option<Expert>,
    /// Gives the weight of that expert, by a sigmoid, `[hidden_size, 1]`, if it has one (Qwen2-MoE).
    pub shared_expert_gate: Option<LowRankLinear>,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    routing: Routing,
}

impl Mlp {
    pub(super) fn new(config: &DecoderConfig, layer: usize, device: &Device) -> Self {
        if let Some(mixture) = config.mixture_of(layer) {
            return Self::of_experts(config, mixture, device);
        }
        let linear = |d_input, d_output| {
            linear(config, d_input, d_output).with_bias(config.mlp_bias).init(device)
        };
        let (hidden, inner) = (config.hidden_size, config.mlp_width(layer));
        let up = |has: bool| has.then(|| linear(hidden, inner));
        let layout = config.mlp;
        let is_fused = layout == MlpLayout::FusedGated;
        Self {
            gate_proj: up(layout == MlpLayout::Gated),
            up_proj: up(!is_fused),
            gate_up_proj: is_fused.then(|| linear(hidden, 2 * inner)),
            down_proj: Some(linear(inner, hidden)),
            gate: None,
            experts: Vec::new(),
            shared_expert: None,
            shared_expert_gate: None,
            activation: config.activation,
            routing: Routing::default(),
        }
    }

    fn of_experts(config: &DecoderConfig, mixture: &MixtureConfig, device: &Device) -> Self {
        let hidden = config.hidden_size;
        let linear =
            |d_input, d_output| linear(config, d_input, d_output).with_bias(mixture.biases);
        let expert = |width| {
            Expert::new(linear, [hidden, width], config.activation, device)
                .with_clamped(mixture.clamped)
        };
        let correction =
            mixture.is_corrected.then(|| Initializer::Zeros.init([mixture.experts], device));
        Self {
            gate_proj: None,
            up_proj: None,
            gate_up_proj: None,
            down_proj: None,
            gate: Some(Router::new(linear(hidden, mixture.experts).init(device), correction)),
            experts: (0..mixture.experts).map(|_| expert(mixture.width)).collect(),
            shared_expert: mixture.shared_width.map(expert),
            shared_expert_gate: mixture.has_shared_gate.then(|| linear(hidden, 1).init(device)),
            activation: config.activation,
            routing: mixture.routing(),
        }
    }

    /// Applies the forward pass on the input tensor.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, positions, hidden_size]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        if let Some(router) = &self.gate {
            return self.mixed(router, x);
        }
        let down = self.down_proj.as_ref();
        down.expect("an MLP has a down projection").forward(self.inner(x))
    }

    /// The input of the down projection.
    fn inner(&self, x: Tensor<3>) -> Tensor<3> {
        if let Some(fused) = &self.gate_up_proj {
            let both = fused.forward(x);
            let width = both.dims()[2] / 2;
            let gate = both.clone().narrow(2, 0, width);
            return self.activation.gate(gate, both.narrow(2, width, width));
        }
        let up = self.up_proj.as_ref().expect("an MLP has an up projection");
        match &self.gate_proj {
            Some(gate) => self.activation.gate(gate.forward(x.clone()), up.forward(x)),
            None => self.activation.forward(up.forward(x)),
        }
    }

    /// The output of the experts.
    fn mixed(&self, router: &Router, x: Tensor<3>) -> Tensor<3> {
        let rows = x.clone().flatten::<2>(0, 1);
        let mixed = self.routing.mix(&self.experts, router, rows).reshape(x.dims());
        let Some(shared) = &self.shared_expert else { return mixed };
        mixed
            + match &self.shared_expert_gate {
                Some(gate) => sigmoid(gate.forward(x.clone())) * shared.forward(x),
                None => shared.forward(x),
            }
    }

    /// Its matrices by their paths in a block, and whether each gives the output: those of experts
    /// give a part of it. A router stays as it is, so it is none of them.
    pub(super) fn matrices(&self) -> Vec<(String, bool)> {
        let all = [
            ("gate_proj", &self.gate_proj, false),
            ("up_proj", &self.up_proj, false),
            ("gate_up_proj", &self.gate_up_proj, false),
            ("down_proj", &self.down_proj, true),
        ];
        let own = all.into_iter().filter(|(_, matrix, _)| matrix.is_some());
        let own = own.map(|(field, _, is_output)| (format!("mlp.{field}"), is_output));
        let experts = (0..self.experts.len()).map(|number| format!("experts.{number}"));
        let shared = self.shared_expert.iter().map(|_| "shared_expert".to_string());
        let of_experts = experts.chain(shared).flat_map(|expert| {
            Expert::MATRICES.map(|field| (format!("mlp.{expert}.{field}"), false))
        });
        own.chain(of_experts).collect()
    }
}

/// A matrix of an MLP, without biases.
fn linear(config: &DecoderConfig, d_input: usize, d_output: usize) -> LowRankLinearConfig {
    LowRankLinearConfig::new(d_input, d_output)
        .with_bias(false)
        .with_initializer(Initializer::Normal { mean: 0.0, std: config.initializer_range })
}
