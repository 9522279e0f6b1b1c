use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{experts, plain, with_even_heads, without_divisors};
use super::{Architecture, set_family};
use crate::model::{DecoderConfig, MixtureConfig, QkNorm};

/// OLMoE: norms of all queries and of all keys, of which there are as many, experts on all layers, and a
/// head of its own. llama.cpp does not limit queries, keys and values there.
#[derive(Debug)]
pub(super) struct Olmoe;

impl Architecture for Olmoe {
    fn name(&self) -> &'static str {
        "olmoe"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["olmoe"]
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::EXPERTS]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let mixture = MixtureConfig { width: config.intermediate_size, ..experts(config, false) };
        let computed = without_divisors(with_even_heads(plain(config)))
            .with_tie_word_embeddings(false)
            .with_qk_norm(QkNorm::Whole)
            .with_mixture(Some(mixture));
        DecoderConfig { num_key_value_heads: config.num_attention_heads, ..computed }
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "olmoe", "OlmoeForCausalLM");
        stated.add_experts("num_experts", json)?;
        json["norm_topk_prob"] = false.into();
        json["clip_qkv"] = Value::Null;
        json["attention_bias"] = false.into();
        Ok(())
    }
}
