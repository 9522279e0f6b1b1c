use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::activation::Activation;
use crate::model::config::DecoderConfig;
use crate::model::config_error::{ConfigError, check_unset};
use crate::model::hf_config::HfConfig;
use crate::model::norm::NormKind;

/// Gemma (arXiv 2403.08295): scaled embeddings, norms whose weights are stored without their 1, and a
/// gate of GELU.
pub(super) struct Gemma;

/// The fields that only Gemma and its successors have.
#[derive(Deserialize)]
struct Own {
    use_bidirectional_attention: Option<bool>,
}

/// What Gemma and its successors have in common.
pub(super) fn described(
    config: &HfConfig,
    layer_type: Option<&str>,
) -> Result<DecoderConfig, ConfigError> {
    let own: Own = config.own()?;
    check_unset(
        "use_bidirectional_attention",
        own.use_bidirectional_attention,
        "false: each token sees those before it",
    )?;
    let decoder = config.with_attention_biases(config.describe_layers(layer_type)?);
    let scale = (config.hidden_size as f64).sqrt();
    Ok(decoder.with_norm(NormKind::RmsFromOne).with_embedding_scale(Some(scale)))
}

impl Family for Gemma {
    fn model_type(&self) -> &'static str {
        "gemma"
    }

    fn models(&self) -> &'static str {
        "Gemma 1"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 16,
            "head_dim": 256,
            "hidden_act": "gelu_pytorch_tanh",
            "max_position_embeddings": 8192,
            "tie_word_embeddings": true,
            "bos_token_id": 2,
            "eos_token_id": 1,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let decoder = described(config, None)?;
        // The first files of this family say `gelu` and mean its approximation.
        Ok(match decoder.activation {
            Activation::Gelu => decoder.with_activation(Activation::GeluTanh),
            _ => decoder,
        })
    }
}
