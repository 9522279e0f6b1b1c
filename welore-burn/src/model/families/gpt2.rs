use serde::Deserialize;
use serde_json::{Value, json};

use super::{Family, fill_width};
use crate::model::config::{DecoderConfig, MlpLayout, QkvLayout};
use crate::model::config_error::{ConfigError, check_unset, positive};
use crate::model::hf_config::HfConfig;
use crate::model::names::Names;
use crate::model::norm::NormKind;

/// GPT-2: learned positions, one matrix for queries, keys and values, norms that subtract the mean, an
/// MLP without a gate, and biases everywhere.
pub(super) struct Gpt2;

const NAMES: Names = Names {
    id: "Gpt2",
    fields: &[
        ("model", "transformer"),
        ("embed_tokens", "wte"),
        ("embed_positions", "wpe"),
        ("layers", "h"),
        ("input_layernorm", "ln_1"),
        ("self_attn", "attn"),
        ("qkv_proj", "c_attn"),
        ("o_proj", "c_proj"),
        ("post_attention_layernorm", "ln_2"),
        ("up_proj", "c_fc"),
        ("down_proj", "c_proj"),
        ("norm", "ln_f"),
    ],
    told_by: Some("wte.weight"),
    turned: true,
    ..Names::LLAMA
};

/// The fields that only this family has. `reorder_and_upcast_attn` is about the order of two products
/// and about precision, and changes nothing that is computed here.
#[derive(Deserialize)]
struct Own {
    layer_norm_epsilon: f64,
    scale_attn_weights: Option<bool>,
    scale_attn_by_inverse_layer_idx: Option<bool>,
    add_cross_attention: Option<bool>,
}

/// The hidden size of the smallest model, which a file need not state.
const HIDDEN: u64 = 768;

impl Family for Gpt2 {
    fn model_type(&self) -> &'static str {
        "gpt2"
    }

    fn models(&self) -> &'static str {
        "GPT-2, DistilGPT2"
    }

    fn defaults(&self) -> Value {
        json!({
            "vocab_size": 50_257,
            "hidden_size": HIDDEN,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "hidden_act": "gelu_new",
            "max_position_embeddings": 1024,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": true,
            "bos_token_id": 50_256,
            "eos_token_id": 50_256,
        })
    }

    fn fields(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("n_embd", "hidden_size"),
            ("n_layer", "num_hidden_layers"),
            ("n_head", "num_attention_heads"),
            ("n_positions", "max_position_embeddings"),
            ("activation_function", "hidden_act"),
        ]
    }

    fn names(&self) -> &'static [Names] {
        &[NAMES]
    }

    fn prepare(&self, config: &mut Value) {
        // Each query head has its own keys, whatever a file says, heads have one width, and nothing is
        // rotated.
        for field in ["num_key_value_heads", "head_dim", "rope_scaling", "rope_parameters"] {
            config[field] = Value::Null;
        }
        fill_width(config, "n_inner", HIDDEN);
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let alone = "false: a model of text alone";
        check_unset("add_cross_attention", own.add_cross_attention, alone)?;
        let unscaled = own.scale_attn_weights == Some(false);
        let decoder = config.describe()?;
        let rotary = vec![false; decoder.num_hidden_layers];
        Ok(decoder
            .with_names(NAMES)
            .with_learned_positions(true)
            .with_rotary_layers(Some(rotary))
            .with_qkv(QkvLayout::Fused)
            .with_qkv_bias(true)
            .with_output_bias(true)
            .with_mlp(MlpLayout::Plain)
            .with_mlp_bias(true)
            .with_norm(NormKind::LayerWithBias)
            .with_rms_norm_eps(positive("layer_norm_epsilon", own.layer_norm_epsilon)?)
            .with_attention_scale(unscaled.then_some(1.0))
            .with_scales_by_layer(own.scale_attn_by_inverse_layer_idx == Some(true)))
    }
}
