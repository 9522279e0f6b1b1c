use serde::Deserialize;
use serde_json::{Value, json};

use super::{Family, fill_width};
use crate::model::config::{BlockLayout, DecoderConfig, MlpLayout, QkvLayout};
use crate::model::config_error::{ConfigError, check_unset, positive, unsupported};
use crate::model::hf_config::HfConfig;
use crate::model::names::Names;
use crate::model::norm::NormKind;

/// Falcon (arXiv 2311.16867): attention and MLP side by side after one norm, and one head of keys and
/// values for all queries. The larger models have several, and some a norm each for attention and MLP.
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

/// Those of models with a norm each for attention and MLP.
const TWO_NORMS: Names = Names {
    id: "FalconTwoNorms",
    fields: &[
        ("model", "transformer"),
        ("embed_tokens", "word_embeddings"),
        ("layers", "h"),
        ("input_layernorm", "ln_attn"),
        ("post_attention_layernorm", "ln_mlp"),
        ("self_attn", "self_attention"),
        ("qkv_proj", "query_key_value"),
        ("o_proj", "dense"),
        ("up_proj", "dense_h_to_4h"),
        ("down_proj", "dense_4h_to_h"),
        ("norm", "ln_f"),
    ],
    ..NAMES
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
    /// Where norms are, and what files call them.
    fn layout(&self) -> Result<(BlockLayout, Names), ConfigError> {
        let is_new = self.new_decoder_architecture == Some(true);
        match (is_new, self.num_ln_in_parallel_attn) {
            (true, None | Some(2)) => Ok((BlockLayout::Parallel, TWO_NORMS)),
            (true, Some(1)) => Ok((BlockLayout::SharedNorm, NAMES)),
            (false, None | Some(1)) => match self.parallel_attn {
                Some(false) => Ok((BlockLayout::Before, NAMES)),
                _ => Ok((BlockLayout::SharedNorm, NAMES)),
            },
            (_, Some(norms)) => {
                let supported = "1, or 2 with `new_decoder_architecture`";
                Err(unsupported("num_ln_in_parallel_attn", norms.to_string(), supported))
            }
        }
    }

    /// Which matrices project to queries, keys and values.
    fn qkv(&self) -> QkvLayout {
        match (self.new_decoder_architecture, self.multi_query) {
            (Some(true), _) | (_, Some(false)) => QkvLayout::FusedByHead,
            _ => QkvLayout::Fused,
        }
    }
}

impl Family for Falcon {
    fn model_type(&self) -> &'static str {
        "falcon"
    }

    fn models(&self) -> &'static str {
        "Falcon 7B, 11B, 40B and 180B"
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
        &[NAMES, TWO_NORMS]
    }

    fn prepare(&self, config: &mut Value) {
        let is = |field: &str, value: bool| config[field] == Value::Bool(value);
        config["num_key_value_heads"] = match is("new_decoder_architecture", true) {
            true => config["num_kv_heads"].clone(),
            false if is("multi_query", false) => Value::Null,
            false => 1.into(),
        };
        config["head_dim"] = Value::Null;
        fill_width(config, "ffn_hidden_size", 4544);
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        check_unset("alibi", own.alibi, "false: rotary positions")?;
        let bias = own.bias == Some(true);
        let (layout, names) = own.layout()?;
        Ok(config
            .describe()?
            .with_names(names)
            .with_qkv(own.qkv())
            .with_qkv_bias(bias)
            .with_output_bias(bias)
            .with_mlp(MlpLayout::Plain)
            .with_mlp_bias(bias)
            .with_layout(layout)
            .with_norm(NormKind::LayerWithBias)
            .with_rms_norm_eps(positive("layer_norm_epsilon", own.layer_norm_epsilon)?))
    }
}
