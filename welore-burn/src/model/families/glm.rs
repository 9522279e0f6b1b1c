use serde_json::{Value, json};

use super::Family;
use crate::model::config::{DecoderConfig, MlpLayout};
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// GLM-4 as first published: biases of queries, keys and values, one matrix for gate and up projection,
/// and half of the channels rotated, neighbours with each other.
pub(super) struct Glm;

/// What both families of GLM-4 have in common.
pub(super) fn described(config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
    Ok(config
        .describe()?
        .with_qkv_bias(config.attention_bias.unwrap_or(false))
        .with_mlp(MlpLayout::FusedGated)
        .with_rotary_neighbours(true))
}

impl Family for Glm {
    fn model_type(&self) -> &'static str {
        "glm"
    }

    fn models(&self) -> &'static str {
        "GLM-4 of 2024"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 2,
            "head_dim": 128,
            "max_position_embeddings": 131_072,
            "partial_rotary_factor": 0.5,
            "rms_norm_eps": 0.000_000_156_25,
            "attention_bias": true,
            "eos_token_id": [151_329, 151_336, 151_338],
        })
    }

    fn rotates_in_part(&self) -> bool {
        true
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        described(config)
    }
}
