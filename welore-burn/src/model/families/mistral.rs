use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// Mistral (arXiv 2310.06825): LLaMA with a sliding window.
pub(super) struct Mistral;

impl Family for Mistral {
    fn model_type(&self) -> &'static str {
        "mistral"
    }

    fn models(&self) -> &'static str {
        "Mistral 7B"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "sliding_window": 4096,
            "eos_token_id": 2,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let decoder = config.with_attention_biases(config.describe()?);
        config.with_window(decoder, 0)
    }
}
