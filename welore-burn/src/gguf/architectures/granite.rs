use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::plain;
use super::{Architecture, Statement, set_family};
use crate::model::DecoderConfig;

/// Granite: LLaMA with scales of embeddings, scores of attention, residual stream and logits.
#[derive(Debug)]
pub(super) struct Granite;

impl Architecture for Granite {
    fn name(&self) -> &'static str {
        "granite"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["granite"]
    }

    fn rotates_neighbours(&self) -> bool {
        true
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::ATTENTION_SCALE, keys::EMBEDDING_SCALE, keys::RESIDUAL_SCALE, keys::LOGIT_SCALE]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        plain(config)
            .with_qkv_bias(config.qkv_bias)
            // In its `config.json` one field is about both.
            .with_output_bias(config.qkv_bias)
            .with_mlp_bias(config.mlp_bias)
            .with_embedding_scale(config.embedding_scale)
            .with_attention_scale(config.attention_scale)
            .with_residual_scale(config.residual_scale)
            .with_logit_scale(config.logit_scale)
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        let usual = (config.head_dim as f64).powf(-0.5);
        [
            (keys::EMBEDDING_SCALE, config.embedding_scale.unwrap_or(1.0)),
            (keys::ATTENTION_SCALE, config.attention_scale.unwrap_or(usual)),
            (keys::RESIDUAL_SCALE, config.residual_scale.unwrap_or(1.0)),
            // What logits are divided by.
            (keys::LOGIT_SCALE, 1.0 / config.logit_scale.unwrap_or(1.0)),
        ]
        .map(|(key, number)| (key, Statement::Number(number)))
        .into()
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "granite", "GraniteForCausalLM");
        if stated.flag(keys::ROPE_TRAINED)? == Some(false) {
            let reason = "is false, which is a model without rotary positions";
            return Err(stated.wrong(keys::ROPE_TRAINED, reason.into()));
        }
        let usual = (stated.head_width()? as f64).powf(-0.5);
        let scale = |key, otherwise| stated.positive(key).map(|scale| scale.unwrap_or(otherwise));
        json["embedding_multiplier"] = scale(keys::EMBEDDING_SCALE, 1.0)?.into();
        json["attention_multiplier"] = scale(keys::ATTENTION_SCALE, usual)?.into();
        json["residual_multiplier"] = scale(keys::RESIDUAL_SCALE, 1.0)?.into();
        json["logits_scaling"] = stated.needed_number(keys::LOGIT_SCALE)?.into();
        json["attention_bias"] = stated.has("blk.0.attn_q.bias").into();
        json["mlp_bias"] = stated.has("blk.0.ffn_up.bias").into();
        Ok(())
    }
}
