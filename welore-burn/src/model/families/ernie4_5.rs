use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// ERNIE 4.5 without experts: LLaMA with neighbouring channels rotated with each other.
pub(super) struct Ernie45;

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    use_bias: Option<bool>,
}

impl Family for Ernie45 {
    fn model_type(&self) -> &'static str {
        "ernie4_5"
    }

    fn models(&self) -> &'static str {
        "ERNIE 4.5 0.3B"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 2,
            "head_dim": 128,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "tie_word_embeddings": true,
            "bos_token_id": 1,
            "eos_token_id": 2,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let bias = own.use_bias.unwrap_or(false);
        let decoder = config.describe()?.with_qkv_bias(bias).with_output_bias(bias);
        Ok(decoder.with_mlp_bias(bias).with_rotary_neighbours(true))
    }
}
