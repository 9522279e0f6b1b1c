use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// Ministral: Mistral with the sliding window on the layers that the file names.
pub(super) struct Ministral;

impl Family for Ministral {
    fn model_type(&self) -> &'static str {
        "ministral"
    }

    fn models(&self) -> &'static str {
        "Ministral"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "sliding_window": 4096,
            "bos_token_id": 1,
            "eos_token_id": 2,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        config.with_window(config.describe()?, 0)
    }
}
