use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::{ConfigError, invalid};
use crate::model::hf_config::HfConfig;

/// SmolLM3: LLaMA with layers that do not see positions, every fourth one if the file does not say
/// which.
pub(super) struct SmolLm3;

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    /// 1 for a layer that sees positions, despite the name, and 0 for one that does not.
    no_rope_layers: Option<Vec<u8>>,
    no_rope_layer_interval: usize,
}

fn rotary_layers(own: Own, layers: usize) -> Result<Vec<bool>, ConfigError> {
    match own.no_rope_layers {
        Some(flags) if flags.len() < layers => {
            let reason = format!("{} numbers are not one for each of {layers} layers", flags.len());
            Err(invalid("no_rope_layers", reason))
        }
        Some(flags) => Ok(flags.iter().take(layers).map(|flag| *flag != 0).collect()),
        None if own.no_rope_layer_interval == 0 => {
            Err(invalid("no_rope_layer_interval", "0 is not a number of layers".into()))
        }
        None => {
            let interval = own.no_rope_layer_interval;
            Ok((1..=layers).map(|layer| !layer.is_multiple_of(interval)).collect())
        }
    }
}

impl Family for SmolLm3 {
    fn model_type(&self) -> &'static str {
        "smollm3"
    }

    fn models(&self) -> &'static str {
        "SmolLM3"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 4,
            "max_position_embeddings": 32_768,
            "rope_theta": 2_000_000.0,
            "tie_word_embeddings": true,
            "bos_token_id": 128_000,
            "eos_token_id": 128_001,
            "no_rope_layer_interval": 4,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let rotary = rotary_layers(config.own()?, config.num_hidden_layers)?;
        let decoder = config.with_attention_biases(config.describe()?);
        // Types of layers that a file states count whatever it says of windows.
        let has_windows = config.use_sliding_window == Some(true) || config.layer_types.is_some();
        let decoder = match has_windows {
            true => {
                let windows = rotary.iter().map(|rotary| !rotary).collect();
                config.with_windows(decoder, windows)?
            }
            false => decoder,
        };
        let all = rotary.iter().all(|rotary| *rotary);
        Ok(decoder.with_rotary_layers((!all).then_some(rotary)))
    }
}
