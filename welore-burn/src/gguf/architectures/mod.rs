//! The registry of llama.cpp's architectures: one file for each, and one line here.
//!
//! An architecture says what llama.cpp computes for its files. A model is written as one that computes
//! the same, and refused if there is none.

mod arcee;
mod chatglm;
mod cohere2;
mod command_r;
mod computed;
mod deci;
mod deepseek2;
mod ernie4_5;
mod exaone4;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod glm4;
mod gpt2;
mod gpt_oss;
mod gptneox;
mod granite;
mod llama;
mod olmo;
mod olmo2;
mod olmoe;
mod phi3;
mod qwen2;
mod qwen2moe;
mod qwen3;
mod qwen3moe;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;

use std::fmt::Debug;

use serde_json::Value;

use self::computed::difference;
use super::error::GgufError;
use super::keys;
use super::stated::Stated;
use crate::model::{BlockLayout, DecoderConfig, RopeScaling};

/// An architecture of the registry.
pub(super) type Known = &'static dyn Architecture;

/// What most architectures call the norms before and after attention, then before and after the MLP.
const NORMS: [&str; 4] = ["attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"];

/// What a file states under a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Statement {
    /// A positive number.
    Number(f64),
    Size(usize),
    Flag(bool),
    Text(&'static str),
}

/// An architecture of llama.cpp.
pub(super) trait Architecture: Debug + Sync {
    /// Its name in files.
    fn name(&self) -> &'static str;

    /// The families that are written as it, if it computes the same.
    fn model_types(&self) -> &'static [&'static str];

    /// What llama.cpp computes for a file of this model, and what is read back from it: the
    /// configuration itself if it is the same. Sizes and whatever else a file states are those of the
    /// configuration.
    fn computed(&self, config: &DecoderConfig) -> DecoderConfig;

    /// Fills in what is particular to it in the `config.json` of a file: `model_type`, and all that
    /// LLaMA does not have.
    fn restore(&self, stated: &Stated<'_>, json: &mut Value) -> Result<(), GgufError>;

    /// What a file states beside what all architectures have.
    fn statements(&self, _config: &DecoderConfig) -> Vec<(&'static str, Statement)> {
        Vec::new()
    }

    /// Keys that it reads and most others do not, so that any value is fine.
    fn reads(&self) -> &'static [&'static str] {
        &[]
    }

    /// The key of the epsilon of norms, and the field of a `config.json`.
    fn epsilon(&self) -> (&'static str, &'static str) {
        (keys::RMS_EPS, "rms_norm_eps")
    }

    /// Whether llama.cpp rotates neighbouring channels with each other. Rows of queries and keys are
    /// then stored in another order than in Hugging Face's files of most families.
    fn rotates_neighbours(&self) -> bool {
        false
    }

    /// The number of layers of which the last has no sliding window, unless a file says which ones
    /// have it; `None` if windows are not for some layers alone.
    fn window_period(&self) -> Option<usize> {
        None
    }

    /// The scaling of rotary frequencies that a file states, which may be a little different from that
    /// of the model; [`remark`](Self::remark) says so.
    fn stated_scaling(&self, config: &DecoderConfig) -> RopeScaling {
        config.rope_scaling.clone()
    }

    /// What it calls the norms before and after attention, then before and after the MLP.
    fn norms(&self, _layout: BlockLayout) -> [&'static str; 4] {
        NORMS
    }

    /// Whether its files may have the divisors of LongRoPE without stating that type of scaling.
    fn implies_longrope(&self) -> bool {
        false
    }

    /// Whether llama.cpp adds adapters to the matrix of this name in files. To the others it adds none,
    /// without saying so.
    fn adds_adapter_to(&self, _tensor: &str) -> bool {
        true
    }

    /// What llama.cpp does not do quite as the model does, for whoever exports it.
    fn remark(&self, _config: &DecoderConfig) -> Option<String> {
        None
    }
}

impl dyn Architecture {
    /// The whole key of one of its metadata.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name())
    }
}

/// All architectures. A model whose family has none of its own is written as the first one that
/// computes the same.
static ARCHITECTURES: &[Known] = &[
    &llama::Llama,
    &qwen2::Qwen2,
    &deci::Deci,
    &qwen3::Qwen3,
    &smollm3::SmolLm3,
    &granite::Granite,
    &gemma::Gemma,
    &gemma2::Gemma2,
    &gemma3::Gemma3,
    &olmo2::Olmo2,
    &phi3::Phi3,
    &stablelm::StableLm,
    &starcoder2::StarCoder2,
    &command_r::CommandR,
    &cohere2::Cohere2,
    &glm4::Glm4,
    &chatglm::ChatGlm,
    &gptneox::GptNeox,
    &gpt2::Gpt2,
    &falcon::Falcon,
    &olmo::Olmo,
    &seed_oss::SeedOss,
    &arcee::Arcee,
    &ernie4_5::Ernie45,
    &exaone4::Exaone4,
    &qwen2moe::Qwen2Moe,
    &qwen3moe::Qwen3Moe,
    &olmoe::Olmoe,
    &gpt_oss::GptOss,
    &deepseek2::DeepSeek2,
];

/// The architecture of this name.
pub(super) fn named(name: &str) -> Option<Known> {
    ARCHITECTURES.iter().copied().find(|known| known.name() == name)
}

/// Their names, for messages.
pub(super) fn names() -> String {
    let names: Vec<&str> = ARCHITECTURES.iter().map(|known| known.name()).collect();
    names.join(", ")
}

/// The architecture that computes what a model does: that of its family, or else any.
///
/// # Errors
///
/// What the architecture of its family computes otherwise, if no other one is right either.
pub(super) fn of(config: &DecoderConfig, model_type: &str) -> Result<Known, String> {
    let is_own = |known: &Known| known.model_types().contains(&model_type);
    let own = ARCHITECTURES.iter().copied().find(is_own);
    let computes = |known: &Known| difference(config, &known.computed(config)).is_none();
    let found = own.into_iter().chain(ARCHITECTURES.iter().copied()).find(computes);
    found.ok_or_else(|| {
        let nearest = own.unwrap_or(&llama::Llama);
        let what = difference(config, &nearest.computed(config)).unwrap_or_default();
        format!("`{}` of llama.cpp {what}", nearest.name())
    })
}

/// Says of which family a `config.json` is.
fn set_family(json: &mut Value, model_type: &str, class: &str) {
    json["model_type"] = model_type.into();
    json["architectures"] = vec![class].into();
}

/// What is said of an architecture for which llama.cpp ignores the sliding window.
fn ignored_window(config: &DecoderConfig) -> Option<String> {
    let window = config.sliding_window?;
    Some(format!(
        "llama.cpp ignores the sliding window: up to {window} tokens it computes the same"
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::model::{NormKind, QkNorm};

    #[test]
    fn names_and_families_are_unique() {
        let names: BTreeSet<&str> = ARCHITECTURES.iter().map(|known| known.name()).collect();
        assert_eq!(names.len(), ARCHITECTURES.len());
        let types = || ARCHITECTURES.iter().flat_map(|known| known.model_types().iter().copied());
        assert_eq!(types().collect::<BTreeSet<_>>().len(), types().count());
        let known: BTreeSet<&str> = crate::model::model_types().collect();
        assert!(types().all(|model_type| known.contains(model_type)));
    }

    /// A decoder of so many layers.
    fn decoder(layers: usize) -> DecoderConfig {
        DecoderConfig::new(64, 32, 40, layers, 4, 2, 8)
    }

    #[test]
    fn what_llama_cpp_tells_by_the_number_of_layers_is_as_it_tells_it() {
        let windowed = |layers: usize| {
            let windows: Vec<bool> = (1..=layers).map(|layer| layer % 4 != 0).collect();
            let mut config = decoder(layers)
                .with_layout(BlockLayout::After)
                .with_qk_norm(QkNorm::Head)
                .with_sliding_window(Some(8))
                .with_rotary_layers(Some(windows.clone()));
            config.window_layers = Some(windows);
            config
        };
        assert_eq!(of(&windowed(64), "exaone4").map(|known| known.name()), Ok("exaone4"));
        assert!(of(&windowed(32), "exaone4").is_err());

        let command_r = |layers: usize| {
            decoder(layers)
                .with_layout(BlockLayout::SharedNorm)
                .with_norm(NormKind::Layer)
                .with_rotary_neighbours(true)
                .with_tie_word_embeddings(true)
        };
        assert_eq!(of(&command_r(40), "cohere").map(|known| known.name()), Ok("command-r"));
        let of_each = command_r(64).with_qk_norm(QkNorm::EachHead);
        assert_eq!(of(&of_each, "cohere").map(|known| known.name()), Ok("command-r"));
        let of_few = command_r(40).with_qk_norm(QkNorm::EachHead);
        assert!(of(&of_few, "cohere").unwrap_err().contains("no norms of queries and keys"));
        let message = of(&command_r(64), "cohere").map(|known| known.name()).unwrap_err();
        assert_eq!(message, "`command-r` of llama.cpp needs norms of queries and keys");

        let rotary = (1..=8).map(|layer| layer % 4 != 0).collect();
        let smollm3 = decoder(8).with_rotary_layers(Some(rotary));
        assert_eq!(of(&smollm3, "smollm3").map(|known| known.name()), Ok("smollm3"));
    }

    #[test]
    fn llama_cpp_knows_by_the_number_of_layers_what_queries_of_deepseek_are_made_of() {
        let deepseek = |layers: usize, short: Value| {
            let config = json!({
                "model_type": "deepseek_v2", "vocab_size": 64, "hidden_size": 32,
                "intermediate_size": 24, "num_hidden_layers": layers, "num_attention_heads": 4,
                "q_lora_rank": short, "kv_lora_rank": 12, "qk_nope_head_dim": 8,
                "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 4,
                "num_experts_per_tok": 2, "moe_intermediate_size": 8,
            });
            let config = DecoderConfig::from_hf_json(&config.to_string()).unwrap();
            of(&config, "deepseek_v2").map(|known| known.name())
        };
        assert_eq!(deepseek(27, Value::Null), Ok("deepseek2"));
        assert_eq!(deepseek(4, 16.into()), Ok("deepseek2"));
        assert!(deepseek(27, 16.into()).is_err());
        assert!(deepseek(4, Value::Null).unwrap_err().contains("short vectors for queries"));
    }

    #[test]
    fn the_largest_gemmas_have_a_scale_of_attention_of_their_own() {
        // Gemma 2 27B and Gemma 3 27B, as their own files have it, and Gemma 2 9B.
        assert_eq!(gemma2::divisor(46, 46, [4608, 32, 128]), 144);
        assert_eq!(gemma2::divisor(62, 62, [5376, 32, 128]), 168);
        assert_eq!(gemma2::divisor(42, 46, [3584, 16, 256]), 256);
    }
}
