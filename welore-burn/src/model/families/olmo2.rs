use serde_json::{Value, json};

use super::Family;
use crate::model::config::{BlockLayout, DecoderConfig, QkNorm};
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// OLMo 2 (arXiv 2501.00656): norms after attention and MLP, and norms of all queries and of all keys.
pub(super) struct Olmo2;

impl Family for Olmo2 {
    fn model_type(&self) -> &'static str {
        "olmo2"
    }

    fn models(&self) -> &'static str {
        "OLMo 2"
    }

    fn defaults(&self) -> Value {
        json!({
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "eos_token_id": 50_279,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let decoder = config.with_attention_biases(config.describe()?);
        Ok(decoder.with_layout(BlockLayout::After).with_qk_norm(QkNorm::Whole))
    }
}
