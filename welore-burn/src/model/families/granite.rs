use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::{ConfigError, positive};
use crate::model::hf_config::HfConfig;

/// Granite: LLaMA with multipliers for embeddings, scores of attention, residual stream and logits.
pub(super) struct Granite;

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    embedding_multiplier: f64,
    attention_multiplier: f64,
    residual_multiplier: f64,
    /// What logits are divided by.
    logits_scaling: f64,
}

impl Family for Granite {
    fn model_type(&self) -> &'static str {
        "granite"
    }

    fn models(&self) -> &'static str {
        "Granite 3"
    }

    fn defaults(&self) -> Value {
        json!({
            "max_position_embeddings": 2048,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "embedding_multiplier": 1.0,
            "attention_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let attention = positive("attention_multiplier", own.attention_multiplier)?;
        let embedding = positive("embedding_multiplier", own.embedding_multiplier)?;
        let residual = positive("residual_multiplier", own.residual_multiplier)?;
        let scaling = positive("logits_scaling", own.logits_scaling)?;
        let decoder = config.with_attention_biases(config.describe()?);
        Ok(decoder
            .with_embedding_scale(Some(embedding))
            .with_attention_scale(Some(attention))
            .with_residual_scale(Some(residual))
            .with_logit_scale(Some(1.0 / scaling)))
    }
}
