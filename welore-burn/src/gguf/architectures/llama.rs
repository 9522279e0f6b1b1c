use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{experts, plain, with_ignored_window};
use super::{Architecture, ignored_window, set_family};
use crate::model::{DecoderConfig, MixtureConfig};

/// LLaMA and Mistral: biases at all projections of attention, or at none. With experts it is Mixtral.
#[derive(Debug)]
pub(super) struct Llama;

/// What `llama` and `deci` have in common.
pub(super) fn described(config: &DecoderConfig) -> DecoderConfig {
    let computed = plain(config)
        .with_qkv_bias(config.qkv_bias)
        // In its `config.json` one field is about both.
        .with_output_bias(config.qkv_bias)
        .with_mlp_bias(config.mlp_bias)
        .with_rotary_neighbours(config.rotary_neighbours);
    with_ignored_window(computed, config)
}

/// The family of `llama` and `deci`: only Mistral has a sliding window; otherwise it is the same
/// model.
pub(super) fn restored(stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
    let window = stated.window()?;
    match window {
        Some(window) => {
            set_family(json, "mistral", "MistralForCausalLM");
            json["sliding_window"] = window.into();
        }
        None => set_family(json, "llama", "LlamaForCausalLM"),
    }
    for (field, bias) in [("attention_bias", "attn_q"), ("mlp_bias", "ffn_up")] {
        let has = stated.has(&format!("blk.0.{bias}.bias"));
        // Mistral's own files have no such fields.
        if has || window.is_none() {
            json[field] = has.into();
        }
    }
    Ok(())
}

impl Architecture for Llama {
    fn name(&self) -> &'static str {
        "llama"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["llama", "mistral", "ministral", "mixtral"]
    }

    fn rotates_neighbours(&self) -> bool {
        true
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::EXPERTS]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let computed = described(config);
        if config.mixture.is_none() {
            return computed;
        }
        let mixture = MixtureConfig { width: config.intermediate_size, ..experts(config, true) };
        // Neither has any in a Mixtral.
        let computed = computed.with_qkv_bias(false).with_output_bias(false).with_mlp_bias(false);
        computed.with_mixture(Some(mixture))
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        if stated.positive_size(keys::EXPERTS)?.is_none() {
            return restored(stated, json);
        }
        set_family(json, "mixtral", "MixtralForCausalLM");
        stated.add_experts("num_local_experts", json)?;
        json["sliding_window"] = stated.window()?.into();
        Ok(())
    }

    fn remark(&self, config: &DecoderConfig) -> Option<String> {
        ignored_window(config)
    }
}
