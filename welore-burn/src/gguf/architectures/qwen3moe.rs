use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{experts, plain, without_divisors};
use super::{Architecture, Statement, set_family};
use crate::model::{DecoderConfig, QkNorm};

/// Qwen3-MoE: Qwen3 with experts on all layers.
#[derive(Debug)]
pub(super) struct Qwen3Moe;

impl Architecture for Qwen3Moe {
    fn name(&self) -> &'static str {
        "qwen3moe"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["qwen3_moe"]
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::EXPERTS]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        without_divisors(plain(config))
            .with_qk_norm(QkNorm::Head)
            .with_mixture(Some(experts(config, true)))
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        let width = config.mixture.as_ref().map(|mixture| Statement::Size(mixture.width));
        width.into_iter().map(|width| (keys::EXPERT_MLP, width)).collect()
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "qwen3_moe", "Qwen3MoeForCausalLM");
        stated.add_experts("num_experts", json)?;
        json["moe_intermediate_size"] = stated.expert_width()?.into();
        json["norm_topk_prob"] = true.into();
        json["use_sliding_window"] = false.into();
        Ok(())
    }
}
