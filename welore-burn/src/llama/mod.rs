//! The LLaMA family: LLaMA 2 and 3, Mistral, Qwen2, SmolLM2, on one model type.
//!
//! [`LlamaConfig`] reads a Hugging Face `config.json`, [`load_llama`] a whole model
//! directory, dense or factored; [`Llama`] is the model, for inference and training alike;
//! [`generate`] continues a prompt.

mod attention;
mod block;
mod cache;
mod config;
mod generate;
mod hf_config;
mod load;
mod model;
mod rotary;
mod sampling;

pub use attention::{Attention, AttentionConfig, CausalMask};
pub use block::{Block, Mlp};
pub use cache::KvCache;
pub use config::{LlamaConfig, RopeScaling};
pub use generate::{GenerateError, GenerateOptions, generate};
pub use hf_config::ConfigError;
pub use load::{
    LoadError, LoadedLlama, OpenedLlama, load_llama, open_llama, read_config, read_plan,
};
pub use model::{Llama, LlamaModel, Pass};
pub use rotary::{Rotary, RotaryTable};
pub use sampling::{Sampler, SamplerError};
