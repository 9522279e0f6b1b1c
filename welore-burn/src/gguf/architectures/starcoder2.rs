use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, with_ignored_window, without_divisors};
use super::{Architecture, ignored_window, set_family};
use crate::model::{Activation, DecoderConfig, MlpLayout, NormKind};

/// StarCoder2: norms that subtract the mean, an MLP without a gate, and biases everywhere. llama.cpp
/// ignores its sliding window.
#[derive(Debug)]
pub(super) struct StarCoder2;

impl Architecture for StarCoder2 {
    fn name(&self) -> &'static str {
        "starcoder2"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["starcoder2"]
    }

    fn epsilon(&self) -> (&'static str, &'static str) {
        (keys::LAYER_EPS, "norm_epsilon")
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let computed = without_divisors(with_even_heads(plain(config)))
            .with_norm(NormKind::LayerWithBias)
            .with_mlp(MlpLayout::Plain)
            .with_activation(Activation::GeluTanh)
            .with_qkv_bias(true)
            .with_output_bias(true)
            .with_mlp_bias(true);
        with_ignored_window(computed, config)
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "starcoder2", "Starcoder2ForCausalLM");
        json["hidden_act"] = "gelu_pytorch_tanh".into();
        json["use_bias"] = true.into();
        json["sliding_window"] = stated.window()?.into();
        Ok(())
    }

    fn remark(&self, config: &DecoderConfig) -> Option<String> {
        ignored_window(config)
    }
}
