use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::{BlockLayout, DecoderConfig};
use crate::model::hf_config::{ConfigError, HfConfig, positive};
use crate::model::norm::NormKind;

/// StableLM (arXiv 2402.17834): norms that subtract the mean, and rotary positions for a quarter of the
/// channels.
pub(super) struct StableLm;

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    layer_norm_eps: f64,
    use_qkv_bias: Option<bool>,
    qk_layernorm: Option<bool>,
    /// Attention and MLP have the same input.
    use_parallel_residual: Option<bool>,
}

impl Family for StableLm {
    fn model_type(&self) -> &'static str {
        "stablelm"
    }

    fn models(&self) -> &'static str {
        "StableLM 3B and 2 1.6B"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "partial_rotary_factor": 0.25,
            "layer_norm_eps": 1e-5,
            "bos_token_id": 0,
            "eos_token_id": 0,
        })
    }

    fn rotates_in_part(&self) -> bool {
        true
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        if own.qk_layernorm == Some(true) {
            return Err(ConfigError::Unsupported {
                field: "qk_layernorm",
                value: "true".into(),
                supported: "false",
            });
        }
        let layout = match own.use_parallel_residual {
            Some(true) => BlockLayout::SharedNorm,
            _ => BlockLayout::Before,
        };
        Ok(config
            .describe()?
            .with_qkv_bias(own.use_qkv_bias.unwrap_or(false))
            .with_norm(NormKind::LayerWithBias)
            .with_rms_norm_eps(positive("layer_norm_eps", own.layer_norm_eps)?)
            .with_layout(layout))
    }
}
