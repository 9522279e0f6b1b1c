//! The architectures of llama.cpp that the models here have.

use crate::model::{DecoderConfig, RopeScaling};

/// An architecture, as GGUF files name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    /// LLaMA and Mistral: biases at all projections of attention, or at none.
    Llama,
    /// Qwen2: biases at queries, keys and values.
    Qwen2,
    /// As LLaMA, with MLPs whose widths differ between layers: in llama.cpp, `llama` and `qwen2` give
    /// all layers the width of the first one.
    Deci,
}

impl Architecture {
    /// The architecture of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Llama, Self::Qwen2, Self::Deci].into_iter().find(|known| known.name() == name)
    }

    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Deci => "deci",
        }
    }

    /// The whole key of one of its metadata.
    pub fn key(self, key: &str) -> String {
        format!("{}.{key}", self.name())
    }

    /// Whether llama.cpp rotates neighbouring channels of this architecture, so that rows of the
    /// query and key projections are stored in another order than in Hugging Face's files.
    pub fn is_interleaved(self) -> bool {
        matches!(self, Self::Llama | Self::Deci)
    }

    /// The architecture that computes what a model does; what it cannot compute, if there is none.
    pub fn of(config: &DecoderConfig) -> Result<Self, String> {
        if config.mixture.is_some() {
            return Err("it has experts, which are not written to GGUF".into());
        }
        if let Some(what) = config.beyond_llama() {
            return Err(format!("it has {what}, and `llama` and `qwen2` of llama.cpp have not"));
        }
        let by_divisors = match config.rope_scaling {
            RopeScaling::Llama3 { .. } => "LLaMA 3.1",
            RopeScaling::LongRope { .. } => "longrope",
            _ => "",
        };
        match (config.qkv_bias, config.output_bias) {
            (false, true) => {
                Err("it has biases at the outputs of attention, and none at queries".into())
            }
            (true, false) if config.mlp_bias => {
                Err("`qwen2` of llama.cpp has no biases in the MLP".into())
            }
            (true, false) if !by_divisors.is_empty() => {
                Err(format!("`qwen2` of llama.cpp does not scale RoPE as {by_divisors} does"))
            }
            (true, false) if config.sliding_window.is_some() => {
                Err("`qwen2` of llama.cpp has no sliding window".into())
            }
            (true, false) if config.intermediate_sizes.is_some() => {
                Err("`qwen2` of llama.cpp has one width for the MLPs of all layers".into())
            }
            (true, false) => Ok(Self::Qwen2),
            _ if config.sliding_window.is_some()
                && (config.first_window_layer > 0 || config.window_layers.is_some()) =>
            {
                Err("`llama` of llama.cpp has no sliding window on some layers only".into())
            }
            _ if config.intermediate_sizes.is_some() => Ok(Self::Deci),
            _ => Ok(Self::Llama),
        }
    }
}
