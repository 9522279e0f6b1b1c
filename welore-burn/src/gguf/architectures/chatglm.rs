use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::computed::with_even_heads;
use super::glm4::{described, restored};
use super::{Architecture, set_family};
use crate::model::DecoderConfig;

/// GLM-4 of 2024: that of 2025 without norms after attention and MLP.
#[derive(Debug)]
pub(super) struct ChatGlm;

impl Architecture for ChatGlm {
    fn name(&self) -> &'static str {
        "chatglm"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["glm"]
    }

    fn rotates_neighbours(&self) -> bool {
        true
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        with_even_heads(described(config))
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "glm", "GlmForCausalLM");
        restored(stated, json)
    }
}
