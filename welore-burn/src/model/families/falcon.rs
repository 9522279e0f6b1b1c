use serde::Deserialize;
use serde_json::{Value, json};

use super::{Family, fill_width};
use crate::model::config::{BlockLayout, DecoderConfig, MlpLayout, QkvLayout};
use crate::model::hf_config::{ConfigError, HfConfig, positive};
use crate::model::names::Names;
use crate::model::norm::NormKind;

/// Falcon 7B (arXiv 2311.16867): one head of keys and values for all queries, and attention and MLP side
/// by side after one norm.
pub(super) struct Falcon;

const NAMES: Names = Names {
    id: "Falcon",
    fields: &[
        ("model", "transformer"),
        ("embed_tokens", "word_embeddings"),
        ("layers", "h"),
        ("self_attn", "self_attention"),
        ("qkv_proj", "query_key_value"),
        ("o_proj", "dense"),
        ("up_proj", "dense_h_to_4h"),
        ("down_proj", "dense_4h_to_h"),
        ("norm", "ln_f"),
    ],
    told_by: Some("word_embeddings.weight"),
    ..Names::LLAMA
};

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    layer_norm_epsilon: f64,
    alibi: Option<bool>,
    new_decoder_architecture: Option<bool>,
    multi_query: Option<bool>,
    parallel_attn: Option<bool>,
    num_ln_in_parallel_attn: Option<usize>,
    bias: Option<bool>,
}

impl Own {
    /// Refuses what other sizes have.
    fn check(&self) -> Result<(), ConfigError> {
        let refused = |field, value: String, supported| {
            Err(ConfigError::Unsupported { field, value, supported })
        };
        if self.alibi == Some(true) {
            return refused("alibi", "true".into(), "false: rotary positions");
        }
        if self.new_decoder_architecture == Some(true) {
            let supported = "false: keys and values of one head or of all";
            return refused("new_decoder_architecture", "true".into(), supported);
        }
        match self.num_ln_in_parallel_attn {
            None | Some(1) => Ok(()),
            Some(norms) => refused("num_ln_in_parallel_attn", norms.to_string(), "1"),
        }
    }
}

impl Family for Falcon {
    fn model_type(&self) -> &'static str {
        "falcon"
    }

    fn models(&self) -> &'static str {
        "Falcon 7B"
    }

    fn defaults(&self) -> Value {
        json!({
            "vocab_size": 65_024,
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "hidden_act": "gelu",
            "max_position_embeddings": 2048,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": true,
            "bos_token_id": 11,
            "eos_token_id": 11,
        })
    }

    fn fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("n_embed", "hidden_size"), ("activation", "hidden_act")]
    }

    fn names(&self) -> &'static [Names] {
        &[NAMES]
    }

    fn prepare(&self, config: &mut Value) {
        let has_one = config["multi_query"] != Value::Bool(false);
        config["num_key_value_heads"] = if has_one { 1.into() } else { Value::Null };
        config["head_dim"] = Value::Null;
        fill_width(config, "ffn_hidden_size", 4544);
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        own.check()?;
        let bias = own.bias == Some(true);
        let (qkv, layout) = (
            if own.multi_query == Some(false) { QkvLayout::FusedByHead } else { QkvLayout::Fused },
            match own.parallel_attn {
                Some(false) => BlockLayout::Before,
                _ => BlockLayout::SharedNorm,
            },
        );
        Ok(config
            .describe()?
            .with_names(NAMES)
            .with_qkv(qkv)
            .with_qkv_bias(bias)
            .with_output_bias(bias)
            .with_mlp(MlpLayout::Plain)
            .with_mlp_bias(bias)
            .with_layout(layout)
            .with_norm(NormKind::LayerWithBias)
            .with_rms_norm_eps(positive("layer_norm_epsilon", own.layer_norm_epsilon)?))
    }
}
