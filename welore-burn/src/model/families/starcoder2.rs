use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::{DecoderConfig, MlpLayout};
use crate::model::config_error::{ConfigError, positive};
use crate::model::hf_config::HfConfig;
use crate::model::names::Names;
use crate::model::norm::NormKind;

/// StarCoder2 (arXiv 2402.19173): norms that subtract the mean, an MLP without a gate, and biases
/// everywhere.
pub(super) struct StarCoder2;

const NAMES: Names = Names {
    id: "StarCoder2",
    fields: &[("up_proj", "c_fc"), ("down_proj", "c_proj")],
    ..Names::LLAMA
};

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    norm_epsilon: f64,
    use_bias: bool,
}

impl Family for StarCoder2 {
    fn model_type(&self) -> &'static str {
        "starcoder2"
    }

    fn models(&self) -> &'static str {
        "StarCoder2"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "max_position_embeddings": 4096,
            "norm_epsilon": 1e-5,
            "use_bias": true,
            "initializer_range": 0.018_042,
            "tie_word_embeddings": true,
            "bos_token_id": 50_256,
            "eos_token_id": 50_256,
        })
    }

    fn names(&self) -> &'static [Names] {
        &[NAMES]
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let decoder = config
            .describe()?
            .with_qkv_bias(own.use_bias)
            .with_output_bias(own.use_bias)
            .with_mlp_bias(own.use_bias)
            .with_norm(NormKind::LayerWithBias)
            .with_rms_norm_eps(positive("norm_epsilon", own.norm_epsilon)?)
            .with_names(NAMES)
            .with_mlp(MlpLayout::Plain);
        config.with_window(decoder, 0)
    }
}
