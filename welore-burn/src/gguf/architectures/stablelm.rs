use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, without_divisors};
use super::{Architecture, Statement, set_family};
use crate::model::{BlockLayout, DecoderConfig, NormKind, QkNorm};

/// StableLM: norms that subtract the mean, those of queries and keys in one tensor for all heads, rotary
/// positions for a part of the channels, a head of its own, and no norm before the MLP where that has the
/// input of attention.
#[derive(Debug)]
pub(super) struct StableLm;

/// The norm of queries in the first layer.
const NORM: &str = "blk.0.attn_q_norm.weight";

/// Refuses a number of heads that this norm does not have, before as many are listed.
fn check_heads(stated: &Stated<'_>) -> Result<(), GgufError> {
    let Some(norm) = stated.file.tensors().get(NORM) else { return Ok(()) };
    let heads = stated.needed(keys::HEADS)?;
    match norm.shape.get(1) {
        Some(found) if *found as u64 == heads => Ok(()),
        _ => Err(stated.file.wrong_tensor(NORM, format!("is not of {heads} heads"))),
    }
}

impl Architecture for StableLm {
    fn name(&self) -> &'static str {
        "stablelm"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["stablelm"]
    }

    fn epsilon(&self) -> (&'static str, &'static str) {
        (keys::LAYER_EPS, "layer_norm_eps")
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let layout = match config.layout {
            BlockLayout::SharedNorm => BlockLayout::SharedNorm,
            _ => BlockLayout::Before,
        };
        let norms = match config.qk_norm {
            QkNorm::EachHeadApart => QkNorm::EachHeadApart,
            _ => QkNorm::None,
        };
        without_divisors(with_even_heads(plain(config)))
            .with_tie_word_embeddings(false)
            .with_layout(layout)
            .with_norm(NormKind::LayerWithBias)
            .with_qk_norm(norms)
            .with_qkv_bias(config.qkv_bias)
            .with_rotary_width(config.rotary_width)
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        vec![(keys::PARALLEL, Statement::Flag(config.layout == BlockLayout::SharedNorm))]
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "stablelm", "StableLmForCausalLM");
        json["partial_rotary_factor"] = stated.rotated_share()?.into();
        json["use_qkv_bias"] = stated.has("blk.0.attn_q.bias").into();
        json["qk_layernorm"] = stated.has(NORM).into();
        check_heads(stated)?;
        // As llama.cpp decides; its converter may state something else.
        json["use_parallel_residual"] = (!stated.has("blk.0.ffn_norm.weight")).into();
        Ok(())
    }
}
