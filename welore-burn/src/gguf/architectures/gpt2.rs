use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{plain, with_even_heads, without_divisors};
use super::{Architecture, set_family};
use crate::model::{Activation, DecoderConfig, MlpLayout, NormKind, QkvLayout};

/// GPT-2: learned positions, one matrix for queries, keys and values, and biases everywhere.
#[derive(Debug)]
pub(super) struct Gpt2;

/// Fields of most `config.json`, and what they are in GPT-2's.
const FIELDS: [(&str, &str); 6] = [
    ("hidden_size", "n_embd"),
    ("intermediate_size", "n_inner"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("max_position_embeddings", "n_positions"),
    ("hidden_act", "activation_function"),
];

/// Fields that it does not have.
const OTHERS: [&str; 4] = ["num_key_value_heads", "head_dim", "rope_theta", "rope_scaling"];

impl Architecture for Gpt2 {
    fn name(&self) -> &'static str {
        "gpt2"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["gpt2"]
    }

    fn epsilon(&self) -> (&'static str, &'static str) {
        (keys::LAYER_EPS, "layer_norm_epsilon")
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        without_divisors(with_even_heads(plain(config)))
            .with_learned_positions(true)
            .with_rotary_layers(Some(vec![false; config.num_hidden_layers]))
            .with_norm(NormKind::LayerWithBias)
            .with_qkv(QkvLayout::Fused)
            .with_qkv_bias(true)
            .with_output_bias(true)
            .with_mlp(MlpLayout::Plain)
            .with_mlp_bias(true)
            .with_activation(Activation::GeluTanh)
    }

    fn restore(&self, _stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "gpt2", "GPT2LMHeadModel");
        json["hidden_act"] = "gelu_new".into();
        let Some(fields) = json.as_object_mut() else { return Ok(()) };
        for (usual, own) in FIELDS {
            if let Some(value) = fields.remove(usual) {
                fields.insert(own.into(), value);
            }
        }
        for other in OTHERS {
            fields.remove(other);
        }
        Ok(())
    }
}
