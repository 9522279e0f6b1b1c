//! The registry of model families: one file per family, and one line here.
//!
//! A family turns its `config.json` into the configuration of a [`Decoder`](super::Decoder).

mod arcee;
mod cohere;
mod cohere2;
mod deepseek;
mod ernie4_5;
mod exaone4;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod glm;
mod glm4;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod helium;
mod llama;
mod ministral;
mod mistral;
mod mixtral;
mod olmo;
mod olmo2;
mod olmo3;
mod olmoe;
mod opt;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;

use serde_json::Value;

use super::config::DecoderConfig;
use super::config_error::ConfigError;
use super::hf_config::HfConfig;
use super::names::Names;

/// A model family.
pub(super) trait Family: Sync {
    /// Its `model_type` in a `config.json`.
    fn model_type(&self) -> &'static str;

    /// Its best-known models, for messages about others that are named alike.
    fn models(&self) -> &'static str;

    /// What transformers takes for fields that a `config.json` lacks, where families differ.
    fn defaults(&self) -> Value;

    /// Fields that have other names in its files than in those of most families: the name there, and the
    /// usual one.
    fn fields(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// How its files may name tensors, where fields of a decoder have other names there. What is
    /// [described](Self::describe) has one of these.
    fn names(&self) -> &'static [Names] {
        &[]
    }

    /// Rewrites what its files state in another way than those of most families. Invalid fields stay as
    /// they are.
    fn prepare(&self, _config: &mut Value) {}

    /// Whether it may rotate a part of the channels of a head.
    fn rotates_in_part(&self) -> bool {
        false
    }

    /// The decoder that a `config.json` describes. The sizes in it have been checked.
    fn describe(&self, config: &HfConfig) -> Result<DecoderConfig, ConfigError>;
}

static FAMILIES: &[&dyn Family] = &[
    &llama::Llama,
    &mistral::Mistral,
    &qwen2::Qwen2,
    &qwen3::Qwen3,
    &smollm3::SmolLm3,
    &granite::Granite,
    &olmo2::Olmo2,
    &gemma::Gemma,
    &gemma2::Gemma2,
    &gemma3::Gemma3,
    &olmo3::Olmo3,
    &phi3::Phi3,
    &stablelm::StableLm,
    &starcoder2::StarCoder2,
    &olmo::Olmo,
    &cohere::Cohere,
    &cohere2::Cohere2,
    &glm::Glm,
    &glm4::Glm4,
    &helium::Helium,
    &seed_oss::SeedOss,
    &arcee::Arcee,
    &ernie4_5::Ernie45,
    &ministral::Ministral,
    &gpt_neox::GptNeox,
    &gpt2::Gpt2,
    &opt::Opt,
    &falcon::Falcon,
    &exaone4::Exaone4,
    &mixtral::Mixtral,
    &qwen2_moe::Qwen2Moe,
    &qwen3_moe::Qwen3Moe,
    &olmoe::Olmoe,
    &gpt_oss::GptOss,
    &deepseek::DeepSeekV2,
    &deepseek::DeepSeekV3,
];

/// The width of MLPs where a file has its own field for it: four times the hidden size if it states none.
/// `hidden` is the hidden size that a file need not state.
fn fill_width(config: &mut Value, field: &str, hidden: u64) {
    config["intermediate_size"] = match &config[field] {
        Value::Null => config["hidden_size"].as_u64().unwrap_or(hidden).saturating_mul(4).into(),
        width => width.clone(),
    };
}

/// The supported values of `model_type` in a `config.json`.
pub fn model_types() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.model_type())
}

/// The supported `model_type` that takes the fewest changes of letters to get to; `None` if every one is more
/// than half different.
pub fn nearest_model_type(model_type: &str) -> Option<&'static str> {
    nearest_to(model_type).first().map(|family| family.model_type())
}

/// All ways in which files name tensors.
pub(super) fn all_names() -> impl Iterator<Item = Names> {
    let own = FAMILIES.iter().flat_map(|family| family.names());
    std::iter::once(Names::LLAMA).chain(own.copied())
}

/// The family of this `model_type`.
pub(super) fn family_of(model_type: &str) -> Result<&'static dyn Family, ConfigError> {
    let known = FAMILIES.iter().find(|family| family.model_type() == model_type);
    known.copied().ok_or_else(|| {
        let models =
            |family: &dyn Family| format!("`{}` ({})", family.model_type(), family.models());
        let nearest = nearest_to(model_type).into_iter().map(models).collect();
        ConfigError::Architecture { model_type: model_type.into(), known: FAMILIES.len(), nearest }
    })
}

/// The families whose `model_type` takes the fewest changes of letters to get to, the nearest first, at
/// most 3; none of those that are more than half different.
fn nearest_to(model_type: &str) -> Vec<&'static dyn Family> {
    // A name from a stranger may be of any length.
    let start: String = model_type.chars().take(64).collect::<String>().to_ascii_lowercase();
    let near = FAMILIES.iter().filter_map(|family| {
        let changes = strsim::damerau_levenshtein(&start, family.model_type());
        let longer = start.chars().count().max(family.model_type().len());
        (2 * changes <= longer).then_some((changes, *family))
    });
    let mut near: Vec<(usize, &'static dyn Family)> = near.collect();
    near.sort_by_key(|(changes, _)| *changes);
    near.into_iter().take(3).map(|(_, family)| family).collect()
}
