use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, without_divisors};
use super::{Architecture, NORMS, set_family};
use crate::model::{Activation, BlockLayout, DecoderConfig, MlpLayout, NormKind, QkvLayout};

/// Falcon: attention and MLP side by side, after one norm or each after its own, without biases in
/// matrices. llama.cpp has the approximation of GELU alone.
#[derive(Debug)]
pub(super) struct Falcon;

/// The norm before attention where the MLP has another.
const SECOND: &str = "attn_norm_2";

impl Architecture for Falcon {
    fn name(&self) -> &'static str {
        "falcon"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["falcon"]
    }

    fn epsilon(&self) -> (&'static str, &'static str) {
        (keys::LAYER_EPS, "layer_norm_epsilon")
    }

    fn norms(&self, layout: BlockLayout) -> [&'static str; 4] {
        let [first, second, before_mlp, last] = NORMS;
        match layout {
            // The one of smaller models is that of the MLP here.
            BlockLayout::Parallel => [SECOND, second, first, last],
            _ => [first, second, before_mlp, last],
        }
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        // With one head of keys they are the same.
        let qkv = match (config.qkv, config.num_key_value_heads) {
            (QkvLayout::Fused, 1) => QkvLayout::Fused,
            _ => QkvLayout::FusedByHead,
        };
        let layout = match config.layout {
            BlockLayout::Parallel => BlockLayout::Parallel,
            _ => BlockLayout::SharedNorm,
        };
        without_divisors(with_even_heads(plain(config)))
            .with_layout(layout)
            .with_norm(NormKind::LayerWithBias)
            .with_qkv(qkv)
            .with_mlp(MlpLayout::Plain)
            .with_activation(Activation::Gelu)
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "falcon", "FalconForCausalLM");
        let heads = [&json["num_attention_heads"], &json["num_key_value_heads"]];
        let [heads, kv_heads] = heads.map(|count| count.as_u64().unwrap_or(0));
        let norms = if stated.has(&format!("blk.0.{SECOND}.weight")) { 2 } else { 1 };
        if norms == 2 || (kv_heads != 1 && kv_heads != heads) {
            json["new_decoder_architecture"] = true.into();
            json["num_ln_in_parallel_attn"] = norms.into();
        }
        json["multi_query"] = (kv_heads == 1).into();
        json["num_kv_heads"] = kv_heads.into();
        json["ffn_hidden_size"] = json["intermediate_size"].clone();
        json["activation"] = "gelu".into();
        if let Some(fields) = json.as_object_mut() {
            for other in ["num_key_value_heads", "head_dim", "hidden_act", "intermediate_size"] {
                fields.remove(other);
            }
        }
        Ok(())
    }

    fn remark(&self, _config: &DecoderConfig) -> Option<String> {
        Some("llama.cpp approximates this model's GELU by a hyperbolic tangent".into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::names::entries;
    use super::*;

    #[test]
    fn the_second_norm_of_a_layer_is_the_one_before_attention() {
        let config = json!({
            "model_type": "falcon", "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "new_decoder_architecture": true,
        });
        let config = DecoderConfig::from_hf_json(&config.to_string()).unwrap();
        let of = |name: &str| {
            let mut all = entries(&config, &Falcon).into_iter();
            all.find(|entry| entry.name == format!("transformer.h.0.{name}")).unwrap().gguf
        };
        assert_eq!(of("ln_attn.weight"), "blk.0.attn_norm_2.weight");
        assert_eq!(of("ln_mlp.bias"), "blk.0.attn_norm.bias");
    }
}
