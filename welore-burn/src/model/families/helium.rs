use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// Helium: LLaMA with neighbouring channels rotated with each other.
pub(super) struct Helium;

impl Family for Helium {
    fn model_type(&self) -> &'static str {
        "helium"
    }

    fn models(&self) -> &'static str {
        "Helium 1"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 20,
            "head_dim": 128,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-8,
            "rope_theta": 100_000.0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let bias = config.attention_bias.unwrap_or(false);
        Ok(config.describe()?.with_qkv_bias(bias).with_rotary_neighbours(true))
    }
}
