use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{experts, plain, with_even_heads, without_divisors};
use super::{Architecture, Statement, set_family};
use crate::model::{DecoderConfig, MixtureConfig};

/// Qwen2-MoE: Qwen2 with experts on all layers, one of which sees all tokens, and a head of its own.
#[derive(Debug)]
pub(super) struct Qwen2Moe;

impl Architecture for Qwen2Moe {
    fn name(&self) -> &'static str {
        "qwen2moe"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["qwen2_moe"]
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::EXPERTS]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let shared = config.mixture.as_ref().and_then(|own| own.shared_width);
        let mixture = MixtureConfig {
            shared_width: Some(shared.unwrap_or(0)),
            has_shared_gate: true,
            ..experts(config, false)
        };
        without_divisors(with_even_heads(plain(config)))
            .with_tie_word_embeddings(false)
            .with_qkv_bias(config.qkv_bias)
            .with_mixture(Some(mixture))
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        let Some(mixture) = &config.mixture else { return Vec::new() };
        let widths =
            [(keys::EXPERT_MLP, Some(mixture.width)), (keys::SHARED_MLP, mixture.shared_width)];
        let stated = |(key, width): (_, Option<usize>)| Some((key, Statement::Size(width?)));
        widths.into_iter().filter_map(stated).collect()
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "qwen2_moe", "Qwen2MoeForCausalLM");
        stated.add_experts("num_experts", json)?;
        json["moe_intermediate_size"] = stated.expert_width()?.into();
        let shared = stated.positive_size(keys::SHARED_MLP)?;
        let shared = shared.map_or_else(|| stated.needed(keys::MLP), Ok)?;
        json["shared_expert_intermediate_size"] = shared.into();
        json["norm_topk_prob"] = false.into();
        json["qkv_bias"] = stated.has("blk.0.attn_q.bias").into();
        json["use_sliding_window"] = false.into();
        Ok(())
    }
}
