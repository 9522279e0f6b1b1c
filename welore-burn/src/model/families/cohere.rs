use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::{BlockLayout, DecoderConfig, QkNorm};
use crate::model::config_error::{ConfigError, positive};
use crate::model::hf_config::HfConfig;
use crate::model::names::Names;
use crate::model::norm::NormKind;

/// Cohere's Command R: attention and MLP have the same input, norms subtract the mean, and logits are
/// scaled. In Command R+ each head of queries and keys has a norm.
pub(super) struct Cohere;

const NAMES: Names = Names {
    id: "Cohere",
    fields: &[("q_head_norm", "q_norm"), ("k_head_norm", "k_norm")],
    ..Names::LLAMA
};

/// The fields that only families of Command R have.
#[derive(Deserialize)]
struct Own {
    layer_norm_eps: f64,
    logit_scale: f64,
}

/// The field that only this family has.
#[derive(Deserialize)]
struct OwnNorms {
    use_qk_norm: Option<bool>,
}

/// What both families of Command R have in common.
pub(super) fn described(config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
    let own: Own = config.own()?;
    let decoder = config.with_attention_biases(config.describe()?);
    Ok(decoder
        .with_layout(BlockLayout::SharedNorm)
        .with_norm(NormKind::Layer)
        .with_rms_norm_eps(positive("layer_norm_eps", own.layer_norm_eps)?)
        .with_rotary_neighbours(true)
        .with_logit_scale(Some(positive("logit_scale", own.logit_scale)?)))
}

impl Family for Cohere {
    fn model_type(&self) -> &'static str {
        "cohere"
    }

    fn models(&self) -> &'static str {
        "Command R and R+"
    }

    fn defaults(&self) -> Value {
        json!({
            "max_position_embeddings": 8192,
            "rope_theta": 500_000.0,
            "layer_norm_eps": 1e-5,
            "logit_scale": 0.0625,
            "tie_word_embeddings": true,
            "bos_token_id": 5,
            "eos_token_id": 255_001,
        })
    }

    fn names(&self) -> &'static [Names] {
        &[NAMES]
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: OwnNorms = config.own()?;
        let norms = match own.use_qk_norm {
            Some(true) => QkNorm::EachHead,
            _ => QkNorm::None,
        };
        Ok(described(config)?.with_names(NAMES).with_qk_norm(norms))
    }
}
