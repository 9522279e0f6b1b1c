use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::{ConfigError, positive};
use crate::model::hf_config::HfConfig;
use crate::model::norm::NormKind;

/// OLMo 1 (arXiv 2402.00838): norms that learn nothing, and a limit of queries, keys and values.
pub(super) struct Olmo;

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    clip_qkv: Option<f64>,
}

impl Family for Olmo {
    fn model_type(&self) -> &'static str {
        "olmo"
    }

    fn models(&self) -> &'static str {
        "OLMo 1"
    }

    fn defaults(&self) -> Value {
        json!({
            "max_position_embeddings": 2048,
            "eos_token_id": 50_279,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let clip = own.clip_qkv.map(|clip| positive("clip_qkv", clip)).transpose()?;
        let decoder = config.with_attention_biases(config.describe()?);
        Ok(decoder
            .with_norm(NormKind::LayerAlone)
            // Its files do not state it.
            .with_rms_norm_eps(1e-5)
            .with_qkv_clip(clip))
    }
}
