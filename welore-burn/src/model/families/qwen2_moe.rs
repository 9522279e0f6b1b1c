use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// Qwen2-MoE (arXiv 2407.10671): Qwen2 with experts in the place of MLPs, one of which sees all
/// tokens.
pub(super) struct Qwen2Moe;

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    qkv_bias: bool,
}

impl Family for Qwen2Moe {
    fn model_type(&self) -> &'static str {
        "qwen2_moe"
    }

    fn models(&self) -> &'static str {
        "Qwen1.5-MoE, Qwen2-57B-A14B"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 16,
            "max_position_embeddings": 32_768,
            "sliding_window": 4096,
            "max_window_layers": 28,
            "qkv_bias": true,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        })
    }

    fn prepare(&self, config: &mut Value) {
        without_empty_window(config);
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let decoder = config.describe()?.with_qkv_bias(own.qkv_bias).with_mlp_bias(false);
        let decoder = config.with_mixture(decoder, 60, true)?;
        let first = config.max_window_layers.unwrap_or(config.num_hidden_layers);
        // Not as in Qwen2: every other one of the first layers.
        let in_window = |layer: usize| layer.is_multiple_of(2) && layer < first;
        match config.use_sliding_window {
            Some(true) => {
                let windows = (0..config.num_hidden_layers).map(in_window).collect();
                config.with_windows(decoder, windows)
            }
            _ => Ok(decoder),
        }
    }
}

/// transformers writes a window of no tokens where there is none.
pub(super) fn without_empty_window(config: &mut Value) {
    if config["sliding_window"] == 0 {
        config["sliding_window"] = Value::Null;
    }
}
