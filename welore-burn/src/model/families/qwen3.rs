use serde_json::{Value, json};

use super::Family;
use crate::model::config::{DecoderConfig, QkNorm};
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// Qwen3 (arXiv 2505.09388): Qwen2 without its biases, with norms of the queries and keys of each head,
/// and with heads of any width.
pub(super) struct Qwen3;

impl Family for Qwen3 {
    fn model_type(&self) -> &'static str {
        "qwen3"
    }

    fn models(&self) -> &'static str {
        "Qwen3"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 32,
            "head_dim": 128,
            "max_position_embeddings": 32_768,
            "sliding_window": 4096,
            "max_window_layers": 28,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let decoder = config.with_attention_biases(config.describe()?);
        let decoder = decoder.with_qk_norm(QkNorm::Head);
        let first = config.max_window_layers.unwrap_or(config.num_hidden_layers);
        config.with_used_window(decoder, first)
    }
}
