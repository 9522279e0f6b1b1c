use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, with_windows, without_divisors};
use super::{Architecture, set_family};
use crate::model::{BlockLayout, DecoderConfig, QkNorm, RopeScaling};

/// OLMo 2 and 3: norms after attention and MLP, norms of all queries and of all keys, and a head of its
/// own. OLMo 3 has a sliding window on three of four layers, whose rotary frequencies are not scaled.
#[derive(Debug)]
pub(super) struct Olmo2;

/// The last one of so many layers has no window.
const PERIOD: usize = 4;

impl Architecture for Olmo2 {
    fn name(&self) -> &'static str {
        "olmo2"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["olmo2", "olmo3"]
    }

    fn window_period(&self) -> Option<usize> {
        Some(PERIOD)
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let computed = without_divisors(with_even_heads(plain(config)))
            .with_tie_word_embeddings(false)
            .with_layout(BlockLayout::After)
            .with_qk_norm(QkNorm::Whole)
            .with_window_rope(Some((config.rope_theta, RopeScaling::None)));
        with_windows(computed, config, None)
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        match stated.window()? {
            None => set_family(json, "olmo2", "Olmo2ForCausalLM"),
            Some(window) => {
                set_family(json, "olmo3", "Olmo3ForCausalLM");
                json["sliding_window"] = window.into();
                json["layer_types"] = stated.layer_types(PERIOD)?;
            }
        }
        Ok(())
    }
}
