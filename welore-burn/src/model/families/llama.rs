use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// LLaMA 2 and 3, and models of the same architecture, such as SmolLM2. `attention_bias` applies to
/// all four projections of attention.
pub(super) struct Llama;

impl Family for Llama {
    fn model_type(&self) -> &'static str {
        "llama"
    }

    fn models(&self) -> &'static str {
        "LLaMA 2 and 3, SmolLM2"
    }

    fn defaults(&self) -> Value {
        json!({ "max_position_embeddings": 2048, "eos_token_id": 2 })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        Ok(config.with_attention_biases(config.describe()?))
    }
}
