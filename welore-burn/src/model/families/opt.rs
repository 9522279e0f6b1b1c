use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::{DecoderConfig, MlpLayout};
use crate::model::config_error::{ConfigError, check_unset, unsupported};
use crate::model::hf_config::HfConfig;
use crate::model::names::Names;
use crate::model::norm::NormKind;

/// OPT and Galactica (arXiv 2205.01068, 2211.09085): learned positions after two rows that are none, norms
/// that subtract the mean, an MLP without a gate, and biases everywhere or nowhere.
pub(super) struct Opt;

const NAMES: Names = Names {
    id: "Opt",
    fields: &[
        ("model", "model.decoder"),
        ("o_proj", "out_proj"),
        ("input_layernorm", "self_attn_layer_norm"),
        ("post_attention_layernorm", "final_layer_norm"),
        ("mlp", ""),
        ("up_proj", "fc1"),
        ("down_proj", "fc2"),
        ("norm", "final_layer_norm"),
    ],
    told_by: Some("decoder.embed_positions.weight"),
    ..Names::LLAMA
};

/// Number of rows before the one of the first position.
const OFFSET: usize = 2;

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    do_layer_norm_before: Option<bool>,
    #[serde(rename = "_remove_final_layer_norm")]
    remove_final_layer_norm: Option<bool>,
    word_embed_proj_dim: Option<usize>,
    enable_bias: Option<bool>,
    layer_norm_elementwise_affine: Option<bool>,
}

impl Own {
    /// Refuses what the 350M model has, and what the first files of this family had.
    fn check(&self, hidden: usize) -> Result<(), ConfigError> {
        if let Some(width) = self.word_embed_proj_dim.filter(|width| *width != hidden) {
            let supported = "the width of hidden states";
            return Err(unsupported("word_embed_proj_dim", width.to_string(), supported));
        }
        if self.do_layer_norm_before == Some(false) {
            let supported = "true: norms before attention and MLP";
            return Err(unsupported("do_layer_norm_before", "false", supported));
        }
        let supported = "false: a norm after the last layer";
        check_unset("_remove_final_layer_norm", self.remove_final_layer_norm, supported)
    }
}

impl Family for Opt {
    fn model_type(&self) -> &'static str {
        "opt"
    }

    fn models(&self) -> &'static str {
        "OPT, Galactica"
    }

    fn defaults(&self) -> Value {
        json!({
            "vocab_size": 50_272,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "hidden_act": "relu",
            "max_position_embeddings": 2048,
            "tie_word_embeddings": true,
            "bos_token_id": 2,
            "eos_token_id": 2,
        })
    }

    fn fields(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("ffn_dim", "intermediate_size"),
            ("activation_function", "hidden_act"),
            ("init_std", "initializer_range"),
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
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        own.check(config.hidden_size)?;
        let bias = own.enable_bias.unwrap_or(true);
        let norm = match own.layer_norm_elementwise_affine {
            Some(false) => NormKind::LayerAlone,
            _ => NormKind::LayerWithBias,
        };
        let decoder = config.describe()?;
        let rotary = vec![false; decoder.num_hidden_layers];
        Ok(decoder
            .with_names(NAMES)
            .with_learned_positions(true)
            .with_position_offset(OFFSET)
            .with_rotary_layers(Some(rotary))
            .with_qkv_bias(bias)
            .with_output_bias(bias)
            .with_mlp(MlpLayout::Plain)
            .with_mlp_bias(bias)
            .with_norm(norm)
            // Its files do not state it.
            .with_rms_norm_eps(1e-5))
    }
}
