//! Language models: the interface, the decoder that all supported families share, and the families.
//!
//! Calibration, compression, evaluation, training and [`generate`] work on any [`LanguageModel`].
//! [`Decoder`] is the one implementation here, described by a [`DecoderConfig`]. The registry of
//! [`families`](model_types) creates that configuration from a Hugging Face `config.json`.
//! [`load_model`] loads a model directory, dense or compressed.

mod activation;
mod attend;
mod attention;
mod block;
mod cache;
mod changed_config;
mod config;
mod config_error;
mod cross_entropy;
mod decoder;
mod families;
mod found;
mod generate;
mod hf_config;
mod hf_mixture;
mod hf_rope;
mod language;
mod latent;
mod load;
mod mixture;
mod mlp;
mod named_decoder;
mod names;
mod norm;
mod plain_names;
mod rope;
mod rotary;
mod sampling;
mod text_part;
mod text_windows;

pub use activation::Activation;
pub use attend::CausalMask;
pub use attention::{Attention, AttentionConfig};
pub use block::Block;
pub use cache::{KvCache, TokenCache};
pub use changed_config::{with_mlp_widths, with_stored_type};
pub use config::{BlockLayout, DecoderConfig, MlpLayout, QkNorm, QkvLayout};
pub use config_error::ConfigError;
pub(crate) use cross_entropy::{cross_entropy, leaf, logit_pieces, rows_at_once, token_losses};
pub use decoder::{Decoder, DecoderBody, Pass};
pub use families::{model_types, nearest_model_type};
pub use found::{FoundModel, Unfamiliar, UnfamiliarModel, open_found};
pub use generate::{
    GenerateError, GenerateOptions, Generator, check_prompt, generate, most_new_tokens,
};
pub(crate) use language::as_tensor;
pub use language::{LanguageModel, ModelMatrix, TokenScales, device_of, projections};
pub use latent::LatentConfig;
pub use load::{LoadError, LoadedModel, OpenedModel, load_model, open_model, read_config};
pub use mixture::{ClampedGlu, Expert, ExpertGroups, MixtureConfig, Router, Scoring};
pub use mlp::Mlp;
pub(crate) use names::is_attention_output;
pub use names::{Names, TokenMatrix};
pub use norm::{HeadNorm, Norm, NormConfig, NormKind};
pub use plain_names::open_weights;
pub use rope::RopeScaling;
pub use rotary::{Rotary, RotaryTable};
pub use sampling::{Sampler, SamplerError};
pub use text_windows::{Bos, TextWindow, TextWindows};
