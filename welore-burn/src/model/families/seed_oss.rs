use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// Seed-OSS: LLaMA with a bias of the output of attention that is stated by itself.
pub(super) struct SeedOss;

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    attention_out_bias: bool,
}

impl Family for SeedOss {
    fn model_type(&self) -> &'static str {
        "seed_oss"
    }

    fn models(&self) -> &'static str {
        "Seed-OSS"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 524_288,
            "attention_bias": true,
            "attention_out_bias": false,
            "bos_token_id": 0,
            "eos_token_id": 2,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let bias = config.attention_bias.unwrap_or(false);
        Ok(config.describe()?.with_qkv_bias(bias).with_output_bias(own.attention_out_bias))
    }
}
