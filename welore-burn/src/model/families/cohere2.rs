use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use super::cohere::described;
use super::gemma3::every_few_layers;
use crate::model::config::DecoderConfig;
use crate::model::config_error::{ConfigError, invalid};
use crate::model::hf_config::HfConfig;

/// Cohere's Command R7B and Command A: Command R with a sliding window on three of four layers, and
/// rotary positions on these alone.
pub(super) struct Cohere2;

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    /// The last one of so many layers has no window.
    sliding_window_pattern: usize,
}

impl Family for Cohere2 {
    fn model_type(&self) -> &'static str {
        "cohere2"
    }

    fn models(&self) -> &'static str {
        "Command R7B, Command A"
    }

    fn defaults(&self) -> Value {
        json!({
            "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-5,
            "logit_scale": 0.0625,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "tie_word_embeddings": true,
            "bos_token_id": 5,
            "eos_token_id": 255_001,
        })
    }

    fn prepare(&self, config: &mut Value) {
        // Heads have one width, whatever a file says.
        config["head_dim"] = Value::Null;
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let few = own.sliding_window_pattern;
        if few == 0 {
            return Err(invalid("sliding_window_pattern", "0 is not a number of layers".into()));
        }
        let layers = config.num_hidden_layers;
        let decoder = config.with_windows(described(config)?, every_few_layers(layers, few))?;
        let rotary: Vec<bool> = (0..layers).map(|layer| decoder.has_window(layer)).collect();
        Ok(decoder.with_rotary_layers(Some(rotary)))
    }
}
