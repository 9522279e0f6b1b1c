use serde_json::{Value, json};

use super::Family;
use super::gemma3::every_few_layers;
use crate::model::config::{BlockLayout, DecoderConfig, QkNorm};
use crate::model::hf_config::{ConfigError, HfConfig};

/// EXAONE 4 (arXiv 2507.11407): norms after attention and MLP, norms of queries and keys of each head,
/// and in the larger model a sliding window on three of four layers, where the others do not see
/// positions.
pub(super) struct Exaone4;

impl Family for Exaone4 {
    fn model_type(&self) -> &'static str {
        "exaone4"
    }

    fn models(&self) -> &'static str {
        "EXAONE 4"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "sliding_window": 4096,
            "bos_token_id": 0,
            "eos_token_id": 2,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let layers = config.num_hidden_layers;
        let decoder = config.describe()?.with_layout(BlockLayout::After).with_qk_norm(QkNorm::Head);
        let decoder = config.with_windows(decoder, every_few_layers(layers, 4))?;
        let rotary: Vec<bool> = (0..layers).map(|layer| decoder.has_window(layer)).collect();
        let has_window = config.sliding_window.is_some();
        Ok(decoder.with_rotary_layers(has_window.then_some(rotary)))
    }
}
