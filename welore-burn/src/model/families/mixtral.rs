use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::ConfigError;
use crate::model::hf_config::HfConfig;
use crate::model::names::Names;

/// Mixtral (arXiv 2401.04088): Mistral with experts in the place of each MLP, whose weights for a token
/// sum up to 1.
pub(super) struct Mixtral;

const NAMES: Names = Names {
    id: "Mixtral",
    fields: &[
        ("mlp", "block_sparse_moe"),
        ("gate_proj", "w1"),
        ("down_proj", "w2"),
        ("up_proj", "w3"),
    ],
    stacks_as_fields: true,
    ..Names::LLAMA
};

impl Family for Mixtral {
    fn model_type(&self) -> &'static str {
        "mixtral"
    }

    fn models(&self) -> &'static str {
        "Mixtral 8x7B and 8x22B"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 8,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1_000_000.0,
            "num_experts_per_tok": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
        })
    }

    fn names(&self) -> &'static [Names] {
        &[NAMES]
    }

    fn prepare(&self, config: &mut Value) {
        // Whatever a file says.
        config["norm_topk_prob"] = true.into();
        for field in ["moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers"] {
            config[field] = Value::Null;
        }
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let decoder = config.with_mixture(config.describe()?, 8, false)?;
        config.with_window(decoder.with_mlp_bias(false).with_names(NAMES), 0)
    }
}
