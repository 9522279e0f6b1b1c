use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// Qwen2 (arXiv 2407.10671): LLaMA with biases for queries, keys and values, and with a sliding
/// window on the later layers if `use_sliding_window` is set.
pub(super) struct Qwen2;

impl Family for Qwen2 {
    fn model_type(&self) -> &'static str {
        "qwen2"
    }

    fn models(&self) -> &'static str {
        "Qwen2, Qwen2.5"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 32,
            "max_position_embeddings": 32_768,
            "sliding_window": 4096,
            "max_window_layers": 28,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let decoder = config.describe()?.with_qkv_bias(true);
        let first = config.max_window_layers.unwrap_or(config.num_hidden_layers);
        config.with_used_window(decoder, first)
    }
}
