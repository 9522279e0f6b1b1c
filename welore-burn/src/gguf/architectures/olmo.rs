use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, without_divisors};
use super::{Architecture, Statement, set_family};
use crate::model::{DecoderConfig, NormKind};

/// OLMo 1: norms that learn nothing, and a limit of queries, keys and values.
#[derive(Debug)]
pub(super) struct Olmo;

/// What all its models have in their norms; a `config.json` does not state it.
const EPSILON: f64 = 1e-5;

impl Architecture for Olmo {
    fn name(&self) -> &'static str {
        "olmo"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["olmo"]
    }

    fn epsilon(&self) -> (&'static str, &'static str) {
        (keys::LAYER_EPS, "layer_norm_eps")
    }

    fn rotates_neighbours(&self) -> bool {
        true
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::QKV_CLIP]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        without_divisors(with_even_heads(plain(config)))
            .with_norm(NormKind::LayerAlone)
            .with_rms_norm_eps(EPSILON)
            .with_qkv_clip(config.qkv_clip)
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        config.qkv_clip.map(|clip| (keys::QKV_CLIP, Statement::Number(clip))).into_iter().collect()
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "olmo", "OlmoForCausalLM");
        let epsilon = stated.needed_number(keys::LAYER_EPS)?;
        if epsilon != EPSILON {
            let reason = format!("is {epsilon}; only {EPSILON} is supported");
            return Err(stated.wrong(keys::LAYER_EPS, reason));
        }
        json["clip_qkv"] = stated.positive(keys::QKV_CLIP)?.into();
        Ok(())
    }
}
