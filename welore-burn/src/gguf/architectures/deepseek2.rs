use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{experts, plain};
use super::{Architecture, Statement, set_family};
use crate::model::{
    DecoderConfig, ExpertGroups, LatentConfig, MixtureConfig, RopeScaling, Scoring,
};

/// DeepSeek-V2 and V3: latent attention, and experts beside one that sees all tokens, after some layers
/// without. Keys and values of all heads are written as one tensor, which llama.cpp reads in its earlier
/// form of these files: in the present one, which is only read, they are two.
#[derive(Debug)]
pub(super) struct DeepSeek2;

/// Whether llama.cpp knows of a model of these sizes that queries are made of hidden states.
fn is_lite(config: &DecoderConfig) -> bool {
    let (layers, tokens) = (config.num_hidden_layers, config.vocab_size);
    [26, 27].contains(&layers) || (layers, tokens) == (48, 128_256)
}

/// How llama.cpp numbers what the logits of a router are turned into.
const SOFTMAX: u64 = 1;
const SIGMOID: u64 = 2;

/// What a multiplier of YaRN is stored times.
const OF_MULTIPLIER: f64 = 0.1;

/// What llama.cpp has for the experts of a model.
fn described(config: &DecoderConfig) -> MixtureConfig {
    let usual = experts(config, false);
    let Some(own) = &config.mixture else { return usual };
    let width = own.width.max(1);
    let mixture = MixtureConfig {
        // A multiple of the width of an expert.
        shared_width: Some(own.shared_width.unwrap_or(0) / width * width),
        scale: own.scale,
        layers: leading(config)
            .map(|first| (0..config.num_hidden_layers).map(|l| l >= first).collect()),
        ..usual
    };
    match own.scoring {
        Scoring::Softmax => mixture,
        Scoring::Sigmoid => MixtureConfig {
            scoring: Scoring::Sigmoid,
            groups: own.groups.map(in_groups),
            is_corrected: own.is_corrected,
            rescales: own.rescales,
            ..mixture
        },
    }
}

/// The score of a group is that of its best two experts, if there are several groups.
fn in_groups(own: ExpertGroups) -> ExpertGroups {
    if own.count > 1 { ExpertGroups { best: 2, ..own } } else { own }
}

/// Number of layers without experts, if there are some: all of them at the beginning.
fn leading(config: &DecoderConfig) -> Option<usize> {
    let layers = 0..config.num_hidden_layers;
    let dense = layers.filter(|layer| config.mixture_of(*layer).is_none()).count();
    (dense > 0).then_some(dense)
}

/// What YaRN sharpens attention by, as DeepSeek's configurations have it; `None` if llama.cpp does not
/// scale as the model does.
fn multiplier(config: &DecoderConfig) -> Option<f64> {
    let RopeScaling::Yarn { factor, attention_factor, .. } = config.rope_scaling else {
        return None;
    };
    let sharpened = config.attention_scale? * (config.head_dim as f64).sqrt();
    let multiplier = (sharpened.sqrt() - 1.0) / (0.1 * factor.ln());
    let fits = (attention_factor - 1.0).abs() < 1e-9 && multiplier > 0.0;
    (fits && multiplier.is_finite()).then_some(multiplier)
}

impl Architecture for DeepSeek2 {
    fn name(&self) -> &'static str {
        "deepseek2"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["deepseek_v2", "deepseek_v3"]
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::EXPERTS, keys::EXPERT_SCALE, keys::EXPERT_GROUPS]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let own = config.latent.unwrap_or(LatentConfig {
            queries_from: None,
            keys_from: 0,
            plain: 0,
            rotated: 0,
            values: 0,
        });
        let queries_from = match is_lite(config) {
            true => None,
            false => Some(own.queries_from.unwrap_or(0)),
        };
        let mut computed = plain(config)
            .with_rotary_width(Some(own.rotated))
            .with_rotary_neighbours(true)
            .with_latent(Some(LatentConfig { queries_from, ..own }))
            .with_mixture(Some(described(config)));
        match multiplier(config) {
            Some(_) => computed.attention_scale = config.attention_scale,
            None => computed.rope_scaling = RopeScaling::None,
        }
        computed
    }

    fn stated_scaling(&self, config: &DecoderConfig) -> RopeScaling {
        let mut scaling = config.rope_scaling.clone();
        // The multiplier says it.
        if let RopeScaling::Yarn { factor, attention_factor, .. } = &mut scaling {
            *attention_factor = 0.1 * factor.ln() + 1.0;
        }
        scaling
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        let (Some(latent), Some(own)) = (config.latent, &config.mixture) else {
            return Vec::new();
        };
        let gating = match own.scoring {
            Scoring::Softmax => SOFTMAX,
            Scoring::Sigmoid => SIGMOID,
        };
        let shared = own.shared_width.unwrap_or(0) / own.width.max(1);
        let mut stated = vec![
            (keys::SHORT_KEYS, Statement::Size(latent.keys_from)),
            (keys::EXPERT_MLP, Statement::Size(own.width)),
            (keys::SHARED_EXPERTS, Statement::Size(shared)),
            (keys::LEADING, Statement::Size(leading(config).unwrap_or(0))),
            (keys::GATING, Statement::Size(gating as usize)),
            (keys::EXPERT_SCALE, Statement::Number(own.scale)),
            (keys::EXPERT_NORM, Statement::Flag(own.rescales)),
        ];
        stated
            .extend(latent.queries_from.map(|width| (keys::SHORT_QUERIES, Statement::Size(width))));
        if let Some(groups) = own.groups.filter(|groups| groups.count > 1) {
            stated.push((keys::EXPERT_GROUPS, Statement::Size(groups.count)));
            stated.push((keys::CHOSEN_GROUPS, Statement::Size(groups.chosen)));
        }
        let multiplier = multiplier(config).map(|multiplier| OF_MULTIPLIER * multiplier);
        stated.extend(multiplier.map(|stored| (keys::YARN_MULTIPLIER, Statement::Number(stored))));
        stated
    }

    fn adds_adapter_to(&self, tensor: &str) -> bool {
        let is_output = tensor.ends_with(".attn_output.weight");
        tensor.starts_with("blk.") && (is_output || !tensor.contains(".attn_"))
    }

    fn remark(&self, _config: &DecoderConfig) -> Option<String> {
        let form = "llama.cpp caches keys and values of all heads for a file of this form, not the \
                    short vectors that they are made of";
        Some(form.into())
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        restore_attention(stated, json)?;
        stated.add_experts("n_routed_experts", json)?;
        json["moe_intermediate_size"] = stated.needed(keys::EXPERT_MLP)?.into();
        json["n_shared_experts"] = stated.needed(keys::SHARED_EXPERTS)?.into();
        json["first_k_dense_replace"] = stated.integer(keys::LEADING)?.unwrap_or(0).into();
        json["routed_scaling_factor"] = stated.positive(keys::EXPERT_SCALE)?.unwrap_or(1.0).into();
        let groups = stated.positive_size(keys::EXPERT_GROUPS)?.unwrap_or(1);
        let rescales = stated.flag(keys::EXPERT_NORM)?.unwrap_or(false);
        match stated.positive_size(keys::GATING)?.unwrap_or(SOFTMAX) {
            SIGMOID => {
                set_family(json, "deepseek_v3", "DeepseekV3ForCausalLM");
                json["n_group"] = groups.into();
                let chosen = stated.positive_size(keys::CHOSEN_GROUPS)?.unwrap_or(1);
                json["topk_group"] = chosen.into();
                json["norm_topk_prob"] = rescales.into();
                json["rope_interleave"] = true.into();
                Ok(())
            }
            SOFTMAX if groups > 1 || rescales => {
                let reason = format!("is {SOFTMAX}, which no model here has with such experts");
                Err(stated.wrong(keys::GATING, reason))
            }
            SOFTMAX => {
                set_family(json, "deepseek_v2", "DeepseekV2ForCausalLM");
                json["topk_method"] = "greedy".into();
                Ok(())
            }
            other => Err(stated.wrong(keys::GATING, format!("is {other}, which is not supported"))),
        }
    }
}

/// What a `config.json` has of latent attention, and of YaRN.
fn restore_attention(stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
    let rotated = stated.rotary_width()?;
    json["kv_lora_rank"] = stated.needed(keys::SHORT_KEYS)?.into();
    json["q_lora_rank"] = match stated.has("blk.0.attn_q_a.weight") {
        true => stated.needed(keys::SHORT_QUERIES)?.into(),
        false => Value::Null,
    };
    json["qk_rope_head_dim"] = rotated.into();
    let width = match stated.positive_size(keys::LATENT_KEY_WIDTH)? {
        Some(width) => {
            // What a file states otherwise is of what llama.cpp caches: one vector for all heads.
            json["num_key_value_heads"] = stated.needed(keys::HEADS)?.into();
            json["head_dim"] = width.into();
            width
        }
        None => stated.head_width()?,
    };
    json["qk_nope_head_dim"] = width.saturating_sub(rotated).into();
    json["v_head_dim"] = stated.needed(stated.value_key()?)?.into();
    let stored = stated.positive(keys::YARN_MULTIPLIER)?;
    let kind = json["rope_scaling"]["rope_type"].as_str().map(String::from);
    match (kind.as_deref(), stored) {
        (None, _) => Ok(()),
        (Some("yarn"), Some(stored)) => {
            // As configurations have it, not with the last digits of a product.
            let multiplier = (stored / OF_MULTIPLIER * 1e6).round() / 1e6;
            json["rope_scaling"]["mscale"] = multiplier.into();
            json["rope_scaling"]["mscale_all_dim"] = multiplier.into();
            Ok(())
        }
        (Some(kind), _) => {
            let reason = format!("is missing, without which `{kind}` is not supported here");
            Err(stated.wrong(keys::YARN_MULTIPLIER, reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As llama.cpp's `build_lora_mm` is used there; its other products ignore adapters.
    #[test]
    fn adapters_are_added_to_the_output_of_attention_and_to_the_mlp() {
        for (tensor, is_added) in [
            ("blk.0.attn_q.weight", false),
            ("blk.0.attn_q_a.weight", false),
            ("blk.0.attn_q_b.weight", false),
            ("blk.0.attn_kv_a_mqa.weight", false),
            ("blk.0.attn_kv_b.weight", false),
            ("output.weight", false),
            ("blk.0.attn_output.weight", true),
            ("blk.0.ffn_down.weight", true),
            ("blk.1.ffn_up_shexp.weight", true),
        ] {
            assert_eq!(DeepSeek2.adds_adapter_to(tensor), is_added, "{tensor}");
        }
    }
}
