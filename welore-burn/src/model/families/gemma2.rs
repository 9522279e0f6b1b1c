use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use super::gemma::described;
use crate::model::config::{BlockLayout, DecoderConfig};
use crate::model::config_error::{ConfigError, positive};
use crate::model::hf_config::{HfConfig, activation};

/// Gemma 2 (arXiv 2408.00118): Gemma with norms before and after attention and MLP, caps of scores and
/// logits, and a sliding window on every other layer.
pub(super) struct Gemma2;

/// The fields that Gemma 2 and 3 have.
#[derive(Deserialize)]
struct Own {
    hidden_activation: Option<String>,
    query_pre_attn_scalar: f64,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
}

/// Adds what Gemma 2 and 3 have in common.
pub(super) fn with_second_norms(
    config: &HfConfig,
    decoder: DecoderConfig,
) -> Result<DecoderConfig, ConfigError> {
    let own: Own = config.own()?;
    let scalar = positive("query_pre_attn_scalar", own.query_pre_attn_scalar)?;
    let cap = own.final_logit_softcapping.map(|cap| positive("final_logit_softcapping", cap));
    let stated = own.hidden_activation.as_deref().unwrap_or(ACTIVATION);
    let activation = activation("hidden_activation", stated)?;
    Ok(decoder
        .with_layout(BlockLayout::Around)
        .with_activation(activation)
        .with_attention_scale(Some(scalar.powf(-0.5)))
        .with_logit_cap(cap.transpose()?))
}

/// Where a file says none.
const ACTIVATION: &str = "gelu_pytorch_tanh";

impl Family for Gemma2 {
    fn model_type(&self) -> &'static str {
        "gemma2"
    }

    fn models(&self) -> &'static str {
        "Gemma 2"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 4,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 8192,
            "sliding_window": 4096,
            "tie_word_embeddings": true,
            "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "bos_token_id": 2,
            "eos_token_id": 1,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let decoder = with_second_norms(config, described(config, None)?)?;
        let own: Own = config.own()?;
        let cap = own.attn_logit_softcapping.map(|cap| positive("attn_logit_softcapping", cap));
        let windows = (0..config.num_hidden_layers).map(|layer| layer % 2 == 0).collect();
        config.with_windows(decoder.with_attention_cap(cap.transpose()?), windows)
    }
}
