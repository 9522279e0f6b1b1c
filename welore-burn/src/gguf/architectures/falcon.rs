use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, without_divisors};
use super::{Architecture, set_family};
use crate::model::{Activation, BlockLayout, DecoderConfig, MlpLayout, NormKind, QkvLayout};

/// Falcon 7B: attention and MLP side by side after one norm, without biases in matrices. llama.cpp has
/// the approximation of GELU alone.
#[derive(Debug)]
pub(super) struct Falcon;

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

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let qkv = match config.num_key_value_heads {
            1 => QkvLayout::Fused,
            _ => QkvLayout::FusedByHead,
        };
        without_divisors(with_even_heads(plain(config)))
            .with_layout(BlockLayout::SharedNorm)
            .with_norm(NormKind::LayerWithBias)
            .with_qkv(qkv)
            .with_mlp(MlpLayout::Plain)
            .with_activation(Activation::Gelu)
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "falcon", "FalconForCausalLM");
        let heads = [&json["num_attention_heads"], &json["num_key_value_heads"]];
        let [heads, kv_heads] = heads.map(|count| count.as_u64().unwrap_or(0));
        if kv_heads != 1 && kv_heads != heads {
            let reason = format!("is {kv_heads}; only 1 and the number of heads are supported");
            return Err(stated.wrong(keys::KV_HEADS, reason));
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
