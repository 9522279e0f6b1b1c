use serde_json::Value;

use super::Family;
use super::glm::{Glm, described};
use crate::model::config::{BlockLayout, DecoderConfig};
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;
use crate::model::names::Names;

/// GLM-4 of 2025: the first one with norms after attention and MLP as well.
pub(super) struct Glm4;

const NAMES: Names = Names {
    id: "Glm4",
    fields: &[
        ("post_attention_layernorm", "post_self_attn_layernorm"),
        ("pre_feedforward_layernorm", "post_attention_layernorm"),
        ("post_feedforward_layernorm", "post_mlp_layernorm"),
    ],
    ..Names::LLAMA
};

impl Family for Glm4 {
    fn model_type(&self) -> &'static str {
        "glm4"
    }

    fn models(&self) -> &'static str {
        "GLM-4-0414"
    }

    fn defaults(&self) -> Value {
        Glm.defaults()
    }

    fn names(&self) -> &'static [Names] {
        &[NAMES]
    }

    fn rotates_in_part(&self) -> bool {
        true
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        Ok(described(config)?.with_names(NAMES).with_layout(BlockLayout::Around))
    }
}
