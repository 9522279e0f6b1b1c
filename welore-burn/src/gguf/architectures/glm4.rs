use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::computed::{plain, without_divisors};
use super::{Architecture, set_family};
use crate::model::{BlockLayout, DecoderConfig, MlpLayout};

/// GLM-4 of 2025: norms around attention and MLP, one matrix for gate and up projection, and rotary
/// positions for a part of the channels, neighbours with each other.
#[derive(Debug)]
pub(super) struct Glm4;

/// What llama.cpp computes for both architectures of GLM-4.
pub(super) fn described(config: &DecoderConfig) -> DecoderConfig {
    without_divisors(plain(config))
        .with_qkv_bias(config.qkv_bias)
        .with_mlp(MlpLayout::FusedGated)
        .with_rotary_width(config.rotary_width)
        .with_rotary_neighbours(true)
}

/// The fields of both.
pub(super) fn restored(stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
    json["partial_rotary_factor"] = stated.rotated_share()?.into();
    json["attention_bias"] = stated.has("blk.0.attn_q.bias").into();
    Ok(())
}

impl Architecture for Glm4 {
    fn name(&self) -> &'static str {
        "glm4"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["glm4"]
    }

    fn rotates_neighbours(&self) -> bool {
        true
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        described(config).with_layout(BlockLayout::Around)
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "glm4", "Glm4ForCausalLM");
        restored(stated, json)
    }
}
