use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, with_windows};
use super::{Architecture, set_family};
use crate::model::{BlockLayout, DecoderConfig, QkNorm, RopeScaling};

/// EXAONE 4: norms after attention and MLP, norms of the queries and keys of each head, and in the
/// larger model, which llama.cpp knows by its layers, a sliding window on three of four layers, and
/// rotary positions on these alone.
#[derive(Debug)]
pub(super) struct Exaone4;

/// The number of layers of EXAONE 4 32B.
const LARGER: usize = 64;

/// The last one of so many layers has no window.
const PERIOD: usize = 4;

/// What llama.cpp takes where a file states none.
const WINDOW: usize = 4096;

impl Architecture for Exaone4 {
    fn name(&self) -> &'static str {
        "exaone4"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["exaone4"]
    }

    fn window_period(&self) -> Option<usize> {
        Some(PERIOD)
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let mut computed = with_even_heads(plain(config))
            .with_layout(BlockLayout::After)
            .with_qk_norm(QkNorm::Head);
        if matches!(config.rope_scaling, RopeScaling::LongRope { .. }) {
            computed.rope_scaling = RopeScaling::None;
        }
        if config.num_hidden_layers != LARGER {
            return computed;
        }
        let computed = with_windows(computed, config, Some((WINDOW, PERIOD)));
        let windows = (0..LARGER).map(|layer| computed.has_window(layer)).collect();
        computed.with_rotary_layers(Some(windows))
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "exaone4", "Exaone4ForCausalLM");
        json["sliding_window"] = Value::Null;
        if stated.needed(keys::LAYERS)? == LARGER as u64 {
            json["sliding_window"] = stated.integer(keys::WINDOW)?.unwrap_or(WINDOW as u64).into();
            json["layer_types"] = stated.layer_types(PERIOD)?;
        }
        Ok(())
    }
}
