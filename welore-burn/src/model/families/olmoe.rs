use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::{DecoderConfig, QkNorm};
use crate::model::config_error::{ConfigError, positive};
use crate::model::hf_config::HfConfig;

/// OLMoE (arXiv 2409.02060): norms of all queries and of all keys, a limit of queries, keys and values,
/// and experts in the place of each MLP.
pub(super) struct Olmoe;

/// The fields that only this family has, and OLMo 1.
#[derive(Deserialize)]
struct Own {
    clip_qkv: Option<f64>,
}

impl Family for Olmoe {
    fn model_type(&self) -> &'static str {
        "olmoe"
    }

    fn models(&self) -> &'static str {
        "OLMoE"
    }

    fn defaults(&self) -> Value {
        json!({
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "num_experts_per_tok": 8,
            "eos_token_id": 50_279,
        })
    }

    fn prepare(&self, config: &mut Value) {
        for field in ["moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers"] {
            config[field] = Value::Null;
        }
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let clip = own.clip_qkv.map(|clip| positive("clip_qkv", clip)).transpose()?;
        let decoder = config.with_attention_biases(config.describe()?);
        let decoder = decoder.with_qk_norm(QkNorm::Whole).with_qkv_clip(clip).with_mlp_bias(false);
        config.with_mixture(decoder, 64, false)
    }
}
