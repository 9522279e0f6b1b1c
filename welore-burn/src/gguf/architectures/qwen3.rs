use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::computed::{plain, without_divisors};
use super::{Architecture, set_family};
use crate::model::{DecoderConfig, QkNorm};

/// Qwen3: norms of the queries and keys of each head.
#[derive(Debug)]
pub(super) struct Qwen3;

impl Architecture for Qwen3 {
    fn name(&self) -> &'static str {
        "qwen3"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["qwen3"]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        without_divisors(plain(config)).with_qk_norm(QkNorm::Head)
    }

    fn restore(&self, _stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "qwen3", "Qwen3ForCausalLM");
        json["use_sliding_window"] = false.into();
        Ok(())
    }
}
