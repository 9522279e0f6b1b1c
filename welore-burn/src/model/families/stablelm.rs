use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::{BlockLayout, DecoderConfig, QkNorm};
use crate::model::config_error::{ConfigError, positive};
use crate::model::hf_config::HfConfig;
use crate::model::names::Names;
use crate::model::norm::NormKind;

/// StableLM (arXiv 2402.17834): norms that subtract the mean, and rotary positions for a quarter of the
/// channels. In StableLM 2 12B each head of queries and keys has a norm.
pub(super) struct StableLm;

const NAMES: Names = Names {
    id: "StableLm",
    fields: &[("q_head_norm", "q_layernorm"), ("k_head_norm", "k_layernorm")],
    ..Names::LLAMA
};

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
        "StableLM 3B, 2 1.6B and 2 12B"
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

    fn names(&self) -> &'static [Names] {
        &[NAMES]
    }

    fn rotates_in_part(&self) -> bool {
        true
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let norms = match own.qk_layernorm {
            Some(true) => QkNorm::EachHeadApart,
            _ => QkNorm::None,
        };
        let layout = match own.use_parallel_residual {
            Some(true) => BlockLayout::SharedNorm,
            _ => BlockLayout::Before,
        };
        Ok(config
            .describe()?
            .with_names(NAMES)
            .with_qk_norm(norms)
            .with_qkv_bias(own.use_qkv_bias.unwrap_or(false))
            .with_norm(NormKind::LayerWithBias)
            .with_rms_norm_eps(positive("layer_norm_eps", own.layer_norm_eps)?)
            .with_layout(layout))
    }
}
