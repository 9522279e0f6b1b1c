//! What a `config.json` says of experts.

use serde::Deserialize;

use super::config::DecoderConfig;
use super::config_error::{ConfigError, check_count, invalid};
use super::hf_config::{HfConfig, LARGEST};
use super::mixture::{MixtureConfig, Scoring};

/// The fields that families with experts have.
#[derive(Deserialize)]
struct HfMixture {
    /// All three are the number of experts.
    num_experts: Option<usize>,
    num_local_experts: Option<usize>,
    n_routed_experts: Option<usize>,
    num_experts_per_tok: usize,
    /// The width of experts, where it is not that of other MLPs.
    moe_intermediate_size: Option<usize>,
    shared_expert_intermediate_size: Option<usize>,
    norm_topk_prob: Option<bool>,
    /// One layer in so many has experts, the last of them.
    decoder_sparse_step: Option<usize>,
    /// Layers without experts.
    mlp_only_layers: Option<Vec<usize>>,
}

/// No model has more experts in all its layers together than this. The bound keeps small files from
/// describing millions of them.
const MOST_EXPERTS: usize = 1 << 17;

impl HfConfig {
    /// Adds the experts that the file describes, `usual` of them in a layer where it does not say how
    /// many. Whether there is one that sees all tokens depends on the family alone.
    pub fn with_mixture(
        &self,
        decoder: DecoderConfig,
        usual: usize,
        has_shared: bool,
    ) -> Result<DecoderConfig, ConfigError> {
        let own: HfMixture = self.own()?;
        let most = MOST_EXPERTS / decoder.num_hidden_layers;
        let experts = match (own.n_routed_experts, own.num_experts, own.num_local_experts) {
            (Some(experts), ..) => counted("n_routed_experts", experts, most)?,
            (None, None, Some(experts)) => counted("num_local_experts", experts, most)?,
            (None, experts, _) => counted("num_experts", experts.unwrap_or(usual), most)?,
        };
        let width = own.moe_intermediate_size.unwrap_or(decoder.intermediate_size);
        let shared_width = match own.shared_expert_intermediate_size.filter(|_| has_shared) {
            Some(width) => Some(counted("shared_expert_intermediate_size", width, LARGEST)?),
            None => None,
        };
        let mixture = MixtureConfig {
            experts,
            chosen: counted("num_experts_per_tok", own.num_experts_per_tok, experts)?,
            width: counted("moe_intermediate_size", width, LARGEST)?,
            scoring: Scoring::Softmax,
            groups: None,
            is_corrected: false,
            scale: 1.0,
            shared_width,
            has_shared_gate: shared_width.is_some(),
            rescales: own.norm_topk_prob.unwrap_or(false),
            layers: own.layers(decoder.num_hidden_layers)?,
            biases: false,
            clamped: None,
        };
        Ok(decoder.with_mixture(Some(mixture)))
    }
}

impl HfMixture {
    /// Whether each layer has experts, if not all have them.
    fn layers(&self, count: usize) -> Result<Option<Vec<bool>>, ConfigError> {
        let step = self.decoder_sparse_step.unwrap_or(1);
        if step == 0 {
            return Err(invalid("decoder_sparse_step", "0 is not a number of layers".into()));
        }
        let dense = self.mlp_only_layers.as_deref().unwrap_or_default();
        let has_experts =
            |layer: usize| (layer + 1).is_multiple_of(step) && !dense.contains(&layer);
        let layers: Vec<bool> = (0..count).map(has_experts).collect();
        Ok(layers.contains(&false).then_some(layers))
    }
}

/// A number that is at least 1.
pub(super) fn counted(
    field: &'static str,
    count: usize,
    most: usize,
) -> Result<usize, ConfigError> {
    check_count(field, count, most)?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mixture(more: Value) -> Result<MixtureConfig, ConfigError> {
        let mut config = json!({
            "model_type": "qwen2_moe",
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 4,
            "num_attention_heads": 16,
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Ok(DecoderConfig::from_hf_json(&config.to_string())?.mixture.unwrap())
    }

    #[test]
    fn layers_have_experts_by_a_step_and_a_list_of_exceptions() {
        let layers = |more| mixture(more).unwrap().layers;
        assert_eq!(layers(json!({})), None);
        assert_eq!(layers(json!({ "mlp_only_layers": [], "decoder_sparse_step": 1 })), None);
        let second = Some(vec![false, true, false, true]);
        assert_eq!(layers(json!({ "decoder_sparse_step": 2 })), second);
        let one = Some(vec![false, false, false, true]);
        assert_eq!(layers(json!({ "decoder_sparse_step": 2, "mlp_only_layers": [1, 9] })), one);
    }

    #[test]
    fn the_number_of_experts_has_two_names() {
        assert_eq!(mixture(json!({})).unwrap().experts, 60);
        assert_eq!(mixture(json!({ "num_experts": 8 })).unwrap().experts, 8);
        assert_eq!(mixture(json!({ "num_local_experts": 6 })).unwrap().experts, 6);
    }

    #[test]
    fn numbers_that_cannot_be_are_refused_by_field() {
        for (field, value) in [
            ("num_experts", json!(0)),
            ("num_experts", json!(1u64 << 40)),
            ("num_local_experts", json!(0)),
            ("num_experts_per_tok", json!(61)),
            ("num_experts_per_tok", json!(0)),
            ("num_experts_per_tok", json!(null)),
            ("moe_intermediate_size", json!(0)),
            ("shared_expert_intermediate_size", json!(0)),
            ("decoder_sparse_step", json!(0)),
            ("mlp_only_layers", json!([-1])),
        ] {
            let error = mixture(json!({ field: value })).unwrap_err().to_string();
            let is_told = error.contains(field) || error.starts_with("not a model configuration");
            assert!(is_told, "{field}: {error}");
        }
    }
}
