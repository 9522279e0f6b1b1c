use serde_json::{Value, json};

use super::Family;
use crate::model::config::{DecoderConfig, MlpLayout};
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// Arcee's AFM: LLaMA with an MLP that has no gate.
pub(super) struct Arcee;

impl Family for Arcee {
    fn model_type(&self) -> &'static str {
        "arcee"
    }

    fn models(&self) -> &'static str {
        "AFM"
    }

    fn defaults(&self) -> Value {
        json!({
            "hidden_act": "relu2",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "bos_token_id": 128_000,
            "eos_token_id": 128_001,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let decoder = config.with_attention_biases(config.describe()?);
        Ok(decoder.with_mlp(MlpLayout::Plain))
    }
}
