use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::{BlockLayout, DecoderConfig, MlpLayout, QkvLayout};
use crate::model::config_error::{ConfigError, positive};
use crate::model::hf_config::HfConfig;
use crate::model::names::Names;
use crate::model::norm::NormKind;

/// GPT-NeoX and Pythia (arXiv 2204.06745, 2304.01373): attention and MLP side by side, one matrix for
/// queries, keys and values, head by head, and rotary positions for a quarter of the channels.
pub(super) struct GptNeox;

const NAMES: Names = Names {
    id: "GptNeox",
    fields: &[
        ("model", "gpt_neox"),
        ("embed_tokens", "embed_in"),
        ("norm", "final_layer_norm"),
        ("self_attn", "attention"),
        ("qkv_proj", "query_key_value"),
        ("o_proj", "dense"),
        ("up_proj", "dense_h_to_4h"),
        ("down_proj", "dense_4h_to_h"),
        ("lm_head", "embed_out"),
    ],
    told_by: Some("embed_in.weight"),
    ..Names::LLAMA
};

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    layer_norm_eps: f64,
    use_parallel_residual: Option<bool>,
}

impl Family for GptNeox {
    fn model_type(&self) -> &'static str {
        "gpt_neox"
    }

    fn models(&self) -> &'static str {
        "GPT-NeoX, Pythia"
    }

    fn defaults(&self) -> Value {
        json!({
            "hidden_act": "gelu",
            "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5,
            "attention_bias": true,
            "bos_token_id": 0,
            "eos_token_id": 2,
        })
    }

    fn names(&self) -> &'static [Names] {
        &[NAMES]
    }

    fn prepare(&self, config: &mut Value) {
        // Each query head has its own keys, whatever a file says, and heads have one width.
        config["num_key_value_heads"] = Value::Null;
        config["head_dim"] = Value::Null;
        // At the top level they have other names here, and the usual ones do not count.
        for (own, field, usual) in [
            ("rotary_emb_base", "rope_theta", 10_000.0),
            ("rotary_pct", "partial_rotary_factor", 0.25),
        ] {
            config[field] = match &config[own] {
                Value::Null => usual.into(),
                stated => stated.clone(),
            };
        }
    }

    fn rotates_in_part(&self) -> bool {
        true
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let bias = config.attention_bias.unwrap_or(false);
        let layout = match own.use_parallel_residual {
            Some(false) => BlockLayout::Before,
            _ => BlockLayout::Parallel,
        };
        Ok(config
            .describe()?
            .with_names(NAMES)
            .with_qkv(QkvLayout::FusedByHead)
            .with_qkv_bias(bias)
            .with_output_bias(bias)
            .with_mlp(MlpLayout::Plain)
            .with_mlp_bias(true)
            .with_layout(layout)
            .with_norm(NormKind::LayerWithBias)
            .with_rms_norm_eps(positive("layer_norm_eps", own.layer_norm_eps)?))
    }
}
