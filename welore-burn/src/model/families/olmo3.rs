use serde_json::{Value, json};

use super::Family;
use super::gemma3::{FULL, LocalRope, every_few_layers, local_rope, nest_rope};
use crate::model::config::{BlockLayout, DecoderConfig, QkNorm};
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;

/// OLMo 3: OLMo 2 with a sliding window on three of four layers, whose rotary frequencies are not
/// scaled.
pub(super) struct Olmo3;

impl Family for Olmo3 {
    fn model_type(&self) -> &'static str {
        "olmo3"
    }

    fn models(&self) -> &'static str {
        "OLMo 3"
    }

    fn defaults(&self) -> Value {
        json!({
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "sliding_window": 4096,
            "eos_token_id": 50_279,
        })
    }

    fn prepare(&self, config: &mut Value) {
        nest_rope(config);
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: LocalRope = config.own()?;
        let decoder = config.with_attention_biases(config.describe_layers(FULL)?);
        let decoder = decoder.with_layout(BlockLayout::After).with_qk_norm(QkNorm::Whole);
        let windows = every_few_layers(config.num_hidden_layers, 4);
        let decoder = config.with_windows(decoder, windows)?;
        let theta = own.rope_local_base_freq.unwrap_or(decoder.rope_theta);
        local_rope(config, decoder, theta)
    }
}
