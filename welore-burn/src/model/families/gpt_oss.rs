use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::{ConfigError, positive};
use crate::model::hf_config::HfConfig;
use crate::model::mixture::{ClampedGlu, MixtureConfig};
use crate::model::names::Names;

/// gpt-oss (arXiv 2508.10925): experts with biases and a product of their own, a score beside those of
/// keys, and a sliding window on every other layer.
pub(super) struct GptOss;

const NAMES: Names = Names { id: "GptOss", fields: &[("gate", "router")], ..Names::LLAMA };

/// The fields that only this family has.
#[derive(Deserialize)]
struct Own {
    swiglu_alpha: f64,
    swiglu_limit: f64,
}

impl Family for GptOss {
    fn model_type(&self) -> &'static str {
        "gpt_oss"
    }

    fn models(&self) -> &'static str {
        "gpt-oss-20b and -120b"
    }

    fn defaults(&self) -> Value {
        json!({
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 131_072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150_000.0,
            "attention_bias": true,
            "sliding_window": 128,
            "num_experts_per_tok": 4,
            "swiglu_alpha": 1.702,
            "swiglu_limit": 7.0,
        })
    }

    fn names(&self) -> &'static [Names] {
        &[NAMES]
    }

    fn prepare(&self, config: &mut Value) {
        if config["rope_scaling"].is_null() && config["rope_parameters"].is_null() {
            config["rope_scaling"] = json!({
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": false,
                "original_max_position_embeddings": 4096,
            });
        }
        // Whatever a file says.
        config["norm_topk_prob"] = true.into();
        for field in ["moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers"] {
            config[field] = Value::Null;
        }
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let clamped = ClampedGlu {
            alpha: positive("swiglu_alpha", own.swiglu_alpha)?,
            limit: positive("swiglu_limit", own.swiglu_limit)?,
        };
        let decoder = config.with_attention_biases(config.describe()?);
        let decoder = decoder.with_attention_sinks(true).with_names(NAMES);
        let decoder = config.with_mixture(decoder.with_mlp_bias(false), 128, false)?;
        let with_biases =
            |mixture| MixtureConfig { biases: true, clamped: Some(clamped), ..mixture };
        let mixture = decoder.mixture.clone().map(with_biases);
        let every_other = (0..config.num_hidden_layers).map(|layer| layer.is_multiple_of(2));
        config.with_windows(decoder.with_mixture(mixture), every_other.collect())
    }
}
