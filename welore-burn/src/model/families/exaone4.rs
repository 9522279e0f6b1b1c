use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use super::gemma3::every_few_layers;
use crate::model::config::{BlockLayout, DecoderConfig, QkNorm};
use crate::model::config_error::{ConfigError, invalid};
use crate::model::hf_config::HfConfig;

/// EXAONE 4 (arXiv 2507.11407): norms after attention and MLP, norms of queries and keys of each head,
/// and in the larger model a sliding window on three of four layers, where the others do not see
/// positions.
pub(super) struct Exaone4;

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    sliding_window_pattern: Option<Pattern>,
}

/// Which layers have the sliding window where a file does not list their types.
#[derive(Deserialize)]
#[serde(untagged, expecting = "sliding_window_pattern must be a whole number or letters L and G")]
enum Pattern {
    /// The last one of so many layers has none.
    Every(usize),
    /// A letter for each layer, L with the window and G without, again and again. The last layer has
    /// none.
    Letters(String),
}

impl Pattern {
    fn windows(&self, layers: usize) -> Result<Vec<bool>, ConfigError> {
        let field = "sliding_window_pattern";
        match self {
            Self::Every(0) => Err(invalid(field, "0 is not a number of layers".into())),
            Self::Every(few) => Ok(every_few_layers(layers, *few)),
            Self::Letters(letters) => {
                if letters.is_empty() || letters.contains(|letter: char| !"LG".contains(letter)) {
                    return Err(invalid(field, "has other letters than L and G".into()));
                }
                let repeated = letters.chars().cycle().take(layers).enumerate();
                Ok(repeated.map(|(at, letter)| letter == 'L' && at + 1 < layers).collect())
            }
        }
    }
}

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
            "sliding_window_pattern": 4,
            "bos_token_id": 0,
            "eos_token_id": 2,
        })
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let layers = config.num_hidden_layers;
        let decoder = config.describe()?.with_layout(BlockLayout::After).with_qk_norm(QkNorm::Head);
        let has_window = config.sliding_window.is_some();
        let own: Own = config.own()?;
        let windows = match own.sliding_window_pattern.filter(|_| has_window) {
            // Files that list the types of their layers may have any pattern beside them.
            Some(pattern) if config.layer_types.is_none() => pattern.windows(layers)?,
            _ => vec![false; layers],
        };
        let decoder = config.with_windows(decoder, windows)?;
        let rotary: Vec<bool> = (0..layers).map(|layer| decoder.has_window(layer)).collect();
        Ok(decoder.with_rotary_layers(has_window.then_some(rotary)))
    }
}
