use serde_json::Value;

use super::super::error::GgufError;
use super::super::stated::Stated;
use super::computed::{plain, without_divisors};
use super::{Architecture, set_family};
use crate::model::{Activation, DecoderConfig, NormKind};

/// Gemma: scaled embeddings, norms whose 1 is in the file, a gate of GELU, and the embedding as the
/// head.
#[derive(Debug)]
pub(super) struct Gemma;

/// What llama.cpp computes for Gemma and its successors.
pub(super) fn described(config: &DecoderConfig) -> DecoderConfig {
    let scale = (config.hidden_size as f64).sqrt();
    without_divisors(plain(config))
        .with_norm(NormKind::RmsFromOne)
        .with_embedding_scale(Some(scale))
        .with_activation(Activation::GeluTanh)
}

impl Architecture for Gemma {
    fn name(&self) -> &'static str {
        "gemma"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["gemma"]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        described(config).with_tie_word_embeddings(true)
    }

    fn restore(&self, _stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "gemma", "GemmaForCausalLM");
        json["hidden_act"] = "gelu_pytorch_tanh".into();
        Ok(())
    }
}
