use serde_json::{Value, json};

use super::Family;
use super::glm::described;
use crate::model::config::{BlockLayout, DecoderConfig};
use crate::model::hf_config::{ConfigError, HfConfig};

/// GLM-4 of 2025: the first one with norms after attention and MLP as well.
pub(super) struct Glm4;

impl Family for Glm4 {
    fn model_type(&self) -> &'static str {
        "glm4"
    }

    fn models(&self) -> &'static str {
        "GLM-4-0414"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 2,
            "head_dim": 128,
            "max_position_embeddings": 131_072,
            "partial_rotary_factor": 0.5,
            "rms_norm_eps": 0.000_000_156_25,
            "attention_bias": true,
            "eos_token_id": [151_329, 151_336, 151_338],
        })
    }

    fn rotates_in_part(&self) -> bool {
        true
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        Ok(described(config)?.with_layout(BlockLayout::AroundGlm))
    }
}
