use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::with_windows;
use super::gemma::described;
use super::gemma2::{restored_scale, scale};
use super::{Architecture, Statement, set_family};
use crate::model::{BlockLayout, DecoderConfig, QkNorm, RopeScaling};

/// The text of Gemma 3: norms of queries and keys in place of the cap of scores, and five layers with a
/// sliding window for each one without, whose rotary frequencies have a base of their own and are not
/// scaled.
#[derive(Debug)]
pub(super) struct Gemma3;

/// The last one of so many layers has no window.
const PERIOD: usize = 6;

/// The base of the frequencies in layers with the window, where a file states none.
const WINDOW_BASE: f64 = 10_000.0;

/// The number of layers of Gemma 3 27B.
const LARGEST: u64 = 62;

/// The base of the frequencies in layers with the window.
fn window_base(config: &DecoderConfig) -> f64 {
    config.window_rope.as_ref().map_or(config.rope_theta, |(base, _)| *base)
}

impl Architecture for Gemma3 {
    fn name(&self) -> &'static str {
        "gemma3"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["gemma3_text"]
    }

    fn window_period(&self) -> Option<usize> {
        Some(PERIOD)
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::LOGIT_CAP]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let mut computed = described(config)
            .with_layout(BlockLayout::Around)
            .with_qk_norm(QkNorm::Head)
            .with_attention_scale(scale(config, LARGEST))
            .with_logit_cap(config.logit_cap)
            .with_window_rope(Some((window_base(config), RopeScaling::None)));
        if matches!(config.rope_scaling, RopeScaling::Yarn { .. }) {
            // It would scale the frequencies of all layers.
            computed.rope_scaling = RopeScaling::None;
        }
        with_windows(computed, config, None)
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        let base = config.sliding_window.map(|_| window_base(config));
        let numbers = [(keys::WINDOW_ROPE_BASE, base), (keys::LOGIT_CAP, config.logit_cap)];
        let stated = numbers.into_iter();
        stated.filter_map(|(key, number)| Some((key, Statement::Number(number?)))).collect()
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "gemma3_text", "Gemma3ForCausalLM");
        let window = stated.window()?;
        json["hidden_activation"] = "gelu_pytorch_tanh".into();
        json["query_pre_attn_scalar"] = restored_scale(stated, LARGEST)?;
        json["final_logit_softcapping"] = stated.positive(keys::LOGIT_CAP)?.into();
        json["sliding_window"] = window.into();
        // All layers have the same frequencies where none has a window.
        let period = if window.is_some() { PERIOD } else { 1 };
        json["layer_types"] = stated.layer_types(period)?;
        let base = stated.number(keys::WINDOW_ROPE_BASE)?.unwrap_or(WINDOW_BASE);
        json["rope_local_base_freq"] = base.into();
        Ok(())
    }
}
