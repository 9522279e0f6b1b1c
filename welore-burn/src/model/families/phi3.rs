use serde_json::{Value, json};

use super::Family;
use crate::model::config::{DecoderConfig, MlpLayout, QkvLayout};
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// Phi-3 and Phi-4 (arXiv 2404.14219): one matrix for queries, keys and values, one for gate and up
/// projection, and rotary positions for a part of the channels.
pub(super) struct Phi3;

impl Family for Phi3 {
    fn model_type(&self) -> &'static str {
        "phi3"
    }

    fn models(&self) -> &'static str {
        "Phi-3, Phi-4"
    }

    fn defaults(&self) -> Value {
        json!({
            "max_position_embeddings": 4096,
            // Here it counts, not in the rope settings.
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "bos_token_id": 1,
            "eos_token_id": 32_000,
        })
    }

    fn rotates_in_part(&self) -> bool {
        true
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let decoder = config.describe()?.with_qkv(QkvLayout::Fused).with_mlp(MlpLayout::FusedGated);
        config.with_window(decoder, 0)
    }
}
