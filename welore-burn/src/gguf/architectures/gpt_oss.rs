use serde_json::{Value, json};

use super::super::error::GgufError;
use super::super::keys;
use super::super::stated::Stated;
use super::computed::{experts, plain, with_windows, without_divisors};
use super::{Architecture, NORMS, Statement, set_family};
use crate::model::{BlockLayout, ClampedGlu, DecoderConfig, MixtureConfig, RopeScaling};

/// gpt-oss: a score beside those of keys, a sliding window on every other layer, experts with biases and
/// a product of their own, and a head of its own.
#[derive(Debug)]
pub(super) struct GptOss;

/// The last one of so many layers has no window.
const PERIOD: usize = 2;

/// The window of the models that there are; llama.cpp needs one.
const WINDOW: usize = 128;

/// What llama.cpp has between the matrices of an expert, whatever a file states.
const CLAMPED: ClampedGlu = ClampedGlu { alpha: 1.702, limit: 7.0 };

impl Architecture for GptOss {
    fn name(&self) -> &'static str {
        "gpt-oss"
    }

    fn model_types(&self) -> &'static [&'static str] {
        &["gpt_oss"]
    }

    fn reads(&self) -> &'static [&'static str] {
        &[keys::EXPERTS]
    }

    fn window_period(&self) -> Option<usize> {
        Some(PERIOD)
    }

    fn norms(&self, _layout: BlockLayout) -> [&'static str; 4] {
        let [first, second, _, last] = NORMS;
        [first, second, second, last]
    }

    fn computed(&self, config: &DecoderConfig) -> DecoderConfig {
        let clamped = Some(CLAMPED);
        let mixture = MixtureConfig { biases: true, clamped, ..experts(config, true) };
        let computed = without_divisors(plain(config))
            .with_tie_word_embeddings(false)
            .with_qkv_bias(true)
            .with_output_bias(true)
            .with_attention_sinks(true)
            .with_mixture(Some(mixture));
        with_windows(computed, config, Some((WINDOW, PERIOD)))
    }

    fn stated_scaling(&self, config: &DecoderConfig) -> RopeScaling {
        let mut scaling = config.rope_scaling.clone();
        if let RopeScaling::Yarn { truncate, .. } = &mut scaling {
            *truncate = true;
        }
        scaling
    }

    fn statements(&self, config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        let width = config.mixture.as_ref().map(|mixture| Statement::Size(mixture.width));
        width.into_iter().map(|width| (keys::EXPERT_MLP, width)).collect()
    }

    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError> {
        set_family(json, "gpt_oss", "GptOssForCausalLM");
        stated.add_experts("num_local_experts", json)?;
        json["intermediate_size"] = stated.needed(keys::EXPERT_MLP)?.into();
        json["sliding_window"] = stated.needed(keys::WINDOW)?.into();
        json["layer_types"] = stated.layer_types(PERIOD)?;
        json["attention_bias"] = true.into();
        json["swiglu_alpha"] = CLAMPED.alpha.into();
        json["swiglu_limit"] = CLAMPED.limit.into();
        match json["rope_scaling"]["rope_type"] == "yarn" {
            // What the models have; a file does not say.
            true => json["rope_scaling"]["truncate"] = false.into(),
            // Without any, readers take that of the models.
            false if json["rope_scaling"].is_null() => {
                json["rope_scaling"] = json!({ "rope_type": "default" });
            }
            false => {}
        }
        Ok(())
    }

    fn remark(&self, config: &DecoderConfig) -> Option<String> {
        let is_exact = matches!(config.rope_scaling, RopeScaling::Yarn { truncate: false, .. });
        is_exact.then(|| {
            "llama.cpp rounds the channels between which YaRN scales, and the model does not".into()
        })
    }
}
