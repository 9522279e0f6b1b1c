use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::command_r::{described, logit_scale};
use super::computed::with_windows;
use super::{Architecture, Statement, set_family};
use crate::model::DecoderConfig;

/// Command R7B and Command A: Command R with a sliding window on three of four layers, and rotary
/// positions on these alone.
#[derive(Debug)]
pub(super) struct Cohere2;

/// The last one of so many layers has no window.
const PERIOD: usize = 4;

impl Architecture for Cohere2 {
    fn name(&self) -> &'static str {
        "cohere2"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["cohere2"]
    }

    fn epsilon(&self) -> (&'static str, &'static str) {
        (keys::LAYER_EPS, "layer_norm_eps")
    }

    fn rotates_neighbours(&self) -> bool {
        true
    }

    fn window_period(&self) -> Option<usize> {
        Some(PERIOD)
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::LOGIT_SCALE]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        // Its files have to state a window.
        let otherwise = Some((config.max_position_embeddings, PERIOD));
        let computed = with_windows(described(config), config, otherwise);
        let rotary =
            (0..config.num_hidden_layers).map(|layer| computed.has_window(layer)).collect();
        computed.with_rotary_layers(Some(rotary))
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        logit_scale(config)
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "cohere2", "Cohere2ForCausalLM");
        json["logit_scale"] = stated.needed_number(keys::LOGIT_SCALE)?.into();
        json["sliding_window"] = stated.needed(keys::WINDOW)?.into();
        json["layer_types"] = stated.layer_types(PERIOD)?;
        Ok(())
    }
}
