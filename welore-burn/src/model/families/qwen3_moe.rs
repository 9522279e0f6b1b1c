use serde_json::{Value, json};

use super::Family;
use super::qwen2_moe::without_empty_window;
use crate::model::config::{DecoderConfig, QkNorm};
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// Qwen3 with experts (arXiv 2505.09388), none of which sees all tokens.
pub(super) struct Qwen3Moe;

impl Family for Qwen3Moe {
    fn model_type(&self) -> &'static str {
        "qwen3_moe"
    }

    fn models(&self) -> &'static str {
        "Qwen3-30B-A3B, Qwen3-235B-A22B"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 4,
            "max_position_embeddings": 32_768,
            "sliding_window": 4096,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        })
    }

    fn prepare(&self, config: &mut Value) {
        without_empty_window(config);
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let decoder = config.with_attention_biases(config.describe()?);
        let decoder = decoder.with_qk_norm(QkNorm::Head).with_mlp_bias(false);
        // On all layers, not as in Qwen3.
        config.with_used_window(config.with_mixture(decoder, 128, false)?, 0)
    }
}
