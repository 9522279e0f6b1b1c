use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::computed::{plain, without_divisors};
use super::{Architecture, set_family};
use crate::model::DecoderConfig;

/// ERNIE 4.5 without experts: LLaMA with neighbouring channels rotated with each other. llama.cpp
/// reads most of its biases and adds none, so a model that has them is written as `llama`.
#[derive(Debug)]
pub(super) struct Ernie45;

impl Architecture for Ernie45 {
    fn name(&self) -> &'static str {
        "ernie4_5"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["ernie4_5"]
    }

    fn rotates_neighbours(&self) -> bool {
        true
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        without_divisors(plain(config)).with_rotary_neighbours(true)
    }

    fn restore(&self, _stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "ernie4_5", "Ernie4_5ForCausalLM");
        json["use_bias"] = false.into();
        Ok(())
    }
}
