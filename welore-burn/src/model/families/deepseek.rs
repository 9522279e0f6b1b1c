use serde::Deserialize;
use serde_json::{Value, json};

use super::Family;
use crate::model::config::DecoderConfig;
use crate::model::config_error::{
    ConfigError, check_count, check_unset, invalid, positive, unsupported,
};
use crate::model::hf_config::{HfConfig, LARGEST, WIDEST_HEADS};
use crate::model::hf_mixture::counted;
use crate::model::latent::LatentConfig;
use crate::model::mixture::{ExpertGroups, MixtureConfig, Scoring};
use crate::model::names::Names;

/// DeepSeek-V2 (arXiv 2405.04434): latent attention, and experts beside one that sees all tokens.
pub(super) struct DeepSeekV2;

/// DeepSeek-V3 and R1 (arXiv 2412.19437): the same with sigmoids for scores, whose correction balances
/// the experts, and groups of experts.
pub(super) struct DeepSeekV3;

const NAMES: Names = Names {
    id: "DeepSeek",
    fields: &[("shared_expert", "shared_experts")],
    // They predict further tokens.
    has_further_layers: true,
    ..Names::LLAMA
};

/// The fields that only these families have.
#[derive(Deserialize)]
struct Own {
    q_lora_rank: Option<usize>,
    kv_lora_rank: usize,
    qk_nope_head_dim: usize,
    qk_rope_head_dim: usize,
    v_head_dim: usize,
    n_shared_experts: usize,
    /// So many layers at the beginning have no experts.
    first_k_dense_replace: usize,
    routed_scaling_factor: f64,
    n_group: Option<usize>,
    topk_group: Option<usize>,
    topk_method: Option<String>,
    rope_interleave: Option<bool>,
}

impl Family for DeepSeekV2 {
    fn model_type(&self) -> &'static str {
        "deepseek_v2"
    }

    fn models(&self) -> &'static str {
        "DeepSeek-V2, also Lite and Coder"
    }

    fn defaults(&self) -> Value {
        json!({
            "max_position_embeddings": 2048,
            "first_k_dense_replace": 0,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "routed_scaling_factor": 1.0,
            "topk_method": "greedy",
            "moe_intermediate_size": 1407,
            "eos_token_id": 2,
        })
    }

    fn names(&self) -> &'static [Names] {
        &[NAMES]
    }

    fn prepare(&self, config: &mut Value) {
        prepared(config);
        // The weights of experts are what they are, whatever a file says, and neighbours are rotated.
        config["norm_topk_prob"] = false.into();
        config["rope_interleave"] = true.into();
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let groups = match own.topk_method.as_deref() {
            Some("greedy") => None,
            Some("group_limited_greedy") => Some(own.groups(1)?),
            other => {
                let (method, supported) =
                    (other.unwrap_or("null"), "greedy and group_limited_greedy");
                return Err(unsupported("topk_method", method, supported));
            }
        };
        let change = |mixture| MixtureConfig { groups, ..mixture };
        own.described(config, change)
    }
}

impl Family for DeepSeekV3 {
    fn model_type(&self) -> &'static str {
        "deepseek_v3"
    }

    fn models(&self) -> &'static str {
        "DeepSeek-V3, R1"
    }

    fn defaults(&self) -> Value {
        json!({
            "max_position_embeddings": 4096,
            "first_k_dense_replace": 3,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "routed_scaling_factor": 2.5,
            "n_group": 8,
            "topk_group": 4,
            "norm_topk_prob": true,
            "rope_interleave": true,
            "moe_intermediate_size": 2048,
            "bos_token_id": 0,
            "eos_token_id": 1,
        })
    }

    fn names(&self) -> &'static [Names] {
        &[NAMES]
    }

    fn prepare(&self, config: &mut Value) {
        prepared(config);
    }

    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError> {
        let own: Own = config.own()?;
        let groups = Some(own.groups(2)?);
        let scoring = Scoring::Sigmoid;
        let change = |mixture| MixtureConfig { scoring, groups, is_corrected: true, ..mixture };
        own.described(config, change)
    }
}

/// Heads have no keys of their own in files, and their width is that of two parts.
fn prepared(config: &mut Value) {
    let width = |field: &str, usual: u64| match &config[field] {
        Value::Null => usual,
        width => width.as_u64().unwrap_or(0),
    };
    let head = width("qk_nope_head_dim", 128).saturating_add(width("qk_rope_head_dim", 64));
    config["head_dim"] = head.into();
    for field in ["num_key_value_heads", "decoder_sparse_step", "mlp_only_layers"] {
        config[field] = Value::Null;
    }
}

impl Own {
    fn latent(&self) -> Result<LatentConfig, ConfigError> {
        let sizes = [
            ("q_lora_rank", self.q_lora_rank.unwrap_or(1)),
            ("kv_lora_rank", self.kv_lora_rank),
            ("qk_nope_head_dim", self.qk_nope_head_dim),
            ("qk_rope_head_dim", self.qk_rope_head_dim),
            ("v_head_dim", self.v_head_dim),
        ];
        sizes.into_iter().try_for_each(|(field, size)| check_count(field, size, LARGEST))?;
        if !self.qk_rope_head_dim.is_multiple_of(2) {
            let reason = format!("{} is odd", self.qk_rope_head_dim);
            return Err(invalid("qk_rope_head_dim", reason));
        }
        Ok(LatentConfig {
            queries_from: self.q_lora_rank,
            keys_from: self.kv_lora_rank,
            plain: self.qk_nope_head_dim,
            rotated: self.qk_rope_head_dim,
            values: self.v_head_dim,
        })
    }

    /// Groups whose score is the sum of those of so many experts.
    fn groups(&self, best: usize) -> Result<ExpertGroups, ConfigError> {
        let count = counted("n_group", self.n_group.unwrap_or(0), LARGEST)?;
        let chosen = counted("topk_group", self.topk_group.unwrap_or(0), count)?;
        Ok(ExpertGroups { count, chosen, best })
    }

    /// The decoder, with what its family changes about its experts.
    fn described(
        &self,
        config: &HfConfig,
        change: impl Fn(MixtureConfig) -> MixtureConfig,
    ) -> Result<DecoderConfig, ConfigError> {
        let latent = self.latent()?;
        // As wide as that of keys, so that later products do not overflow.
        check_count("v_head_dim", latent.values, WIDEST_HEADS / config.num_attention_heads)?;
        let decoder = config.with_attention_biases(config.describe()?);
        check_unset("mlp_bias", config.mlp_bias, "false")?;
        let sharpened = positive("mscale_all_dim", config.sharpened())?;
        let scale = sharpened * (latent.head_dim() as f64).powf(-0.5);
        let decoder = decoder
            .with_names(NAMES)
            .with_attention_scale((sharpened != 1.0).then_some(scale))
            .with_rotary_width(Some(latent.rotated))
            .with_rotary_neighbours(self.rope_interleave.unwrap_or(false))
            .with_latent(Some(latent));
        let decoder = config.with_mixture(decoder, 64, false)?;
        let first = self.first_k_dense_replace;
        let layers: Vec<bool> = (0..config.num_hidden_layers).map(|layer| layer >= first).collect();
        let layers = layers.contains(&false).then_some(layers);
        let change = |mixture| self.mixture(MixtureConfig { layers, ..change(mixture) });
        let mixture = decoder.mixture.clone().map(change).transpose()?;
        Ok(decoder.with_mixture(mixture))
    }

    /// The experts, with one that sees all tokens.
    fn mixture(&self, mixture: MixtureConfig) -> Result<MixtureConfig, ConfigError> {
        let shared = mixture.width.saturating_mul(self.n_shared_experts);
        let shared = counted("n_shared_experts", shared, LARGEST)?;
        if let Some(groups) = mixture.groups {
            let size = mixture.experts / groups.count;
            if !mixture.experts.is_multiple_of(groups.count) || size < groups.best {
                let reason = format!("{} experts are not as many groups", mixture.experts);
                return Err(invalid("n_group", reason));
            }
            if size * groups.chosen < mixture.chosen {
                let reason = format!("there are no {} experts in these groups", mixture.chosen);
                return Err(invalid("topk_group", reason));
            }
        }
        Ok(MixtureConfig {
            shared_width: Some(shared),
            scale: positive("routed_scaling_factor", self.routed_scaling_factor)?,
            ..mixture
        })
    }
}
