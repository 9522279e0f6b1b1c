use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, with_ignored_window};
use super::{Architecture, ignored_window, set_family};
use crate::model::{DecoderConfig, MlpLayout, QkvLayout, RopeScaling};

/// Phi-3: one matrix for queries, keys and values, one for gate and up projection, and rotary positions
/// for a part of the channels. llama.cpp ignores its sliding window.
#[derive(Debug)]
pub(super) struct Phi3;

impl Architecture for Phi3 {
    fn name(&self) -> &'static str {
        "phi3"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["phi3"]
    }

    fn implies_longrope(&self) -> bool {
        true
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let mut computed = with_even_heads(plain(config))
            .with_qkv(QkvLayout::Fused)
            .with_mlp(MlpLayout::FusedGated)
            .with_rotary_width(config.rotary_width);
        if matches!(config.rope_scaling, RopeScaling::Llama3 { .. }) {
            computed.rope_scaling = RopeScaling::None;
        }
        with_ignored_window(computed, config)
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "phi3", "Phi3ForCausalLM");
        json["partial_rotary_factor"] = stated.rotated_share()?.into();
        json["sliding_window"] = stated.window()?.into();
        Ok(())
    }

    fn remark(&self, config: &DecoderConfig) -> Option<String> {
        ignored_window(config)
    }
}
