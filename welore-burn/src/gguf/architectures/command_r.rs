use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, without_divisors};
use super::{Architecture, Statement, set_family};
use crate::model::{BlockLayout, DecoderConfig, NormKind, QkNorm};

/// Command R: attention and MLP have the same input, norms subtract the mean, logits are scaled, and
/// the embedding is the head.
#[derive(Debug)]
pub(super) struct CommandR;

/// Models of so many layers have norms of queries and keys in llama.cpp.
const NORMED: usize = 64;

/// What llama.cpp computes for both of Cohere's architectures.
pub(super) fn described(config: &DecoderConfig) -> DecoderConfig {
    without_divisors(with_even_heads(plain(config)))
        .with_tie_word_embeddings(true)
        .with_layout(BlockLayout::SharedNorm)
        .with_norm(NormKind::Layer)
        .with_rotary_neighbours(true)
        .with_logit_scale(config.logit_scale)
}

/// The metadata of both.
pub(super) fn logit_scale(config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
    vec![(keys::LOGIT_SCALE, Statement::Number(config.logit_scale.unwrap_or(1.0)))]
}

impl Architecture for CommandR {
    fn name(&self) -> &'static str {
        "command-r"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["cohere"]
    }

    fn epsilon(&self) -> (&'static str, &'static str) {
        (keys::LAYER_EPS, "layer_norm_eps")
    }

    fn rotates_neighbours(&self) -> bool {
        true
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::LOGIT_SCALE]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let has_norms = config.num_hidden_layers >= NORMED;
        let norms = if has_norms { QkNorm::EachHead } else { QkNorm::None };
        described(config).with_qk_norm(norms)
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        logit_scale(config)
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "cohere", "CohereForCausalLM");
        json["logit_scale"] = stated.positive(keys::LOGIT_SCALE)?.unwrap_or(1.0).into();
        json["use_qk_norm"] = stated.has("blk.0.attn_q_norm.weight").into();
        Ok(())
    }
}
