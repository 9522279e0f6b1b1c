use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::computed::{plain, without_divisors};
use super::{Architecture, set_family};
use crate::model::DecoderConfig;

/// SmolLM3: every fourth layer has no rotary positions.
#[derive(Debug)]
pub(super) struct SmolLm3;

/// The last one of so many layers has none.
const PERIOD: usize = 4;

impl Architecture for SmolLm3 {
    fn name(&self) -> &'static str {
        "smollm3"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["smollm3"]
    }

    fn rotates_neighbours(&self) -> bool {
        true
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let layers = 1..=config.num_hidden_layers;
        let rotary = layers.map(|layer| !layer.is_multiple_of(PERIOD)).collect();
        without_divisors(plain(config)).with_rotary_layers(Some(rotary))
    }

    fn restore(&self, _stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "smollm3", "SmolLM3ForCausalLM");
        json["no_rope_layer_interval"] = PERIOD.into();
        json["use_sliding_window"] = false.into();
        Ok(())
    }
}
