use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::with_windows;
use super::gemma::described;
use super::{Architecture, Statement, set_family};
use crate::model::{BlockLayout, DecoderConfig};

/// Gemma 2: norms around attention and MLP, caps of scores and logits, and a sliding window on every
/// other layer.
#[derive(Debug)]
pub(super) struct Gemma2;

/// The last one of so many layers has no window.
const PERIOD: usize = 2;

/// What llama.cpp takes where a file states none.
const WINDOW: usize = 4096;
const ATTENTION_CAP: f64 = 50.0;
const LOGIT_CAP: f64 = 30.0;

/// What llama.cpp divides the squares of scores of attention by: the width of a head, but in the
/// largest model of the family, which it knows by its layers, that of its share of the residual
/// stream.
pub(super) fn divisor(layers: u64, largest: u64, [hidden, heads, width]: [u64; 3]) -> u64 {
    if layers == largest { hidden / heads.max(1) } else { width }
}

/// The scale of attention that llama.cpp computes.
pub(super) fn scale(config: &DecoderConfig, largest: u64) -> Option<f64> {
    let sizes = [config.hidden_size, config.num_attention_heads, config.head_dim];
    let divisor = divisor(config.num_hidden_layers as u64, largest, sizes.map(|size| size as u64));
    Some((divisor as f64).powf(-0.5))
}

/// The same as a `config.json` states it.
pub(super) fn restored_scale(stated: &Stated<'_>, largest: u64) -> Result<Value, GgufError> {
    let sizes = [stated.needed(keys::HIDDEN)?, stated.needed(keys::HEADS)?, stated.head_width()?];
    Ok(divisor(stated.needed(keys::LAYERS)?, largest, sizes).into())
}

/// The number of layers of Gemma 2 27B.
const LARGEST: u64 = 46;

impl Architecture for Gemma2 {
    fn name(&self) -> &'static str {
        "gemma2"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["gemma2"]
    }

    fn window_period(&self) -> Option<usize> {
        Some(PERIOD)
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::ATTENTION_CAP, keys::LOGIT_CAP]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let computed = described(config)
            .with_tie_word_embeddings(true)
            .with_layout(BlockLayout::Around)
            .with_attention_scale(scale(config, LARGEST))
            .with_attention_cap(Some(config.attention_cap.unwrap_or(ATTENTION_CAP)))
            .with_logit_cap(Some(config.logit_cap.unwrap_or(LOGIT_CAP)));
        with_windows(computed, config, Some((WINDOW, PERIOD)))
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        let caps =
            [(keys::ATTENTION_CAP, config.attention_cap), (keys::LOGIT_CAP, config.logit_cap)];
        let stated = caps.into_iter().filter_map(|(key, cap)| Some((key, Statement::Number(cap?))));
        stated.collect()
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "gemma2", "Gemma2ForCausalLM");
        let cap = |key, otherwise| stated.number(key).map(|cap| cap.unwrap_or(otherwise));
        json["hidden_activation"] = "gelu_pytorch_tanh".into();
        json["query_pre_attn_scalar"] = restored_scale(stated, LARGEST)?;
        json["attn_logit_softcapping"] = cap(keys::ATTENTION_CAP, ATTENTION_CAP)?.into();
        json["final_logit_softcapping"] = cap(keys::LOGIT_CAP, LOGIT_CAP)?.into();
        json["sliding_window"] = stated.integer(keys::WINDOW)?.unwrap_or(WINDOW as u64).into();
        json["layer_types"] = stated.layer_types(PERIOD)?;
        Ok(())
    }
}
