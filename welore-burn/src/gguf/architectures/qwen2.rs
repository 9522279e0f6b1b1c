use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, without_divisors};
use super::{Architecture, set_family};
use crate::model::DecoderConfig;

/// Qwen2: biases at queries, keys and values.
#[derive(Debug)]
pub(super) struct Qwen2;

impl Architecture for Qwen2 {
    fn name(&self) -> &'static str {
        "qwen2"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["qwen2"]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        without_divisors(with_even_heads(plain(config))).with_qkv_bias(true)
    }

    fn restore(&self, _stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "qwen2", "Qwen2ForCausalLM");
        json["use_sliding_window"] = false.into();
        Ok(())
    }
}
