use burn::config::Config;
use serde::{Deserialize, Serialize};

use super::activation::Activation;
use super::latent::LatentConfig;
use super::mixture::MixtureConfig;
use super::names::Names;
use super::norm::NormKind;
use super::rope::RopeScaling;

/// Configuration to create a [`Decoder`](super::Decoder) model using its `init` function.
///
/// The fields follow a Hugging Face `config.json`; see [`read_config`](super::read_config).
#[derive(Config, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP; the largest one if layers differ.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Added to the mean square in the norms.
    #[config(default = 1e-5)]
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[config(default = 10000.0)]
    pub rope_theta: f64,
    /// How the rotary frequencies are scaled for contexts longer than the trained one.
    #[config(default = "RopeScaling::None")]
    pub rope_scaling: RopeScaling,
    /// Longest context that the model supports, in tokens, if the scaling of its rotary frequencies
    /// does not give a longer one; see [`context`](Self::context).
    #[config(default = 2048)]
    pub max_position_embeddings: usize,
    /// Whether the head is the transposed embedding.
    #[config(default = false)]
    pub tie_word_embeddings: bool,
    /// Whether the query, key and value projections have a bias (Qwen2).
    #[config(default = false)]
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    #[config(default = false)]
    pub output_bias: bool,
    /// Whether the MLP projections have a bias.
    #[config(default = false)]
    pub mlp_bias: bool,
    /// How files name its parts.
    #[config(default = "Names::LLAMA")]
    pub names: Names,
    /// Where the norms of a block are, and whether its two parts have the same input.
    #[config(default = "BlockLayout::Before")]
    pub layout: BlockLayout,
    /// What norms do.
    #[config(default = "NormKind::Rms")]
    pub norm: NormKind,
    /// Norms of queries and keys.
    #[config(default = "QkNorm::None")]
    pub qk_norm: QkNorm,
    /// Which matrices project to queries, keys and values.
    #[config(default = "QkvLayout::Separate")]
    pub qkv: QkvLayout,
    /// Which matrices an MLP has.
    #[config(default = "MlpLayout::Gated")]
    pub mlp: MlpLayout,
    /// The function between the matrices of an MLP.
    #[config(default = "Activation::Silu")]
    pub activation: Activation,
    /// What scores of attention are multiplied by; `None` for `head_dim^(-1/2)`.
    pub attention_scale: Option<f64>,
    /// The cap `c` of scores of attention `s`, which become `c · tanh(s / c)` (Gemma 2).
    pub attention_cap: Option<f64>,
    /// The largest absolute value of numbers in queries, keys and values (OLMo 1).
    pub qkv_clip: Option<f64>,
    /// The widths of latent attention, whose queries and keys have the width `head_dim` (DeepSeek).
    pub latent: Option<LatentConfig>,
    /// Whether each head has a score of something that it sees beside all keys, and that gives nothing
    /// (gpt-oss).
    #[config(default = false)]
    pub attention_sinks: bool,
    /// What embeddings are multiplied by (Gemma, Granite).
    pub embedding_scale: Option<f64>,
    /// What attention and MLP are multiplied by before they are added to the residual stream
    /// (Granite).
    pub residual_scale: Option<f64>,
    /// What logits are multiplied by (Cohere, Granite).
    pub logit_scale: Option<f64>,
    /// The cap of logits, as that of scores (Gemma 2).
    pub logit_cap: Option<f64>,
    /// Whether scores of attention are divided by the number of their layer, counted from 1 (GPT-2).
    #[config(default = false)]
    pub scales_by_layer: bool,
    /// Whether each position has a vector that is added to the embedding of its token: a table with
    /// [`position_rows`](Self::position_rows) rows (GPT-2).
    #[config(default = false)]
    pub learned_positions: bool,
    /// Number of rows of that table before the one of the first position (OPT).
    #[config(default = 0)]
    pub position_offset: usize,
    /// Number of channels of a head that are rotated, the first ones; even. `None` for all.
    pub rotary_width: Option<usize>,
    /// Whether neighbouring channels are rotated with each other (GLM, Cohere); otherwise those at
    /// the same place in the first and in the second half.
    #[config(default = false)]
    pub rotary_neighbours: bool,
    /// Whether each layer has rotary positions, one for each layer; `None` if all have them.
    pub rotary_layers: Option<Vec<bool>>,
    /// Base and scaling of the rotary frequencies in layers with the sliding window (Gemma 3); `None`
    /// if all layers have the same frequencies.
    pub window_rope: Option<(f64, RopeScaling)>,
    /// Number of tokens that a query sees, including its own (Mistral); `None` for all up to it.
    pub sliding_window: Option<usize>,
    /// First layer with the sliding window.
    #[config(default = 0)]
    pub first_window_layer: usize,
    /// Whether each layer has the sliding window, one for each layer; `None` if those from
    /// `first_window_layer` on have it.
    pub window_layers: Option<Vec<bool>>,
    /// Standard deviation of newly initialized weights.
    #[config(default = 0.02)]
    pub initializer_range: f64,
    /// Width of the MLP of each layer, one for each, if layers differ. transformers and most programs
    /// want one width for all.
    pub intermediate_sizes: Option<Vec<usize>>,
    /// Experts in the place of the MLP, on all layers or on some (Mixtral).
    pub mixture: Option<MixtureConfig>,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    #[config(default = "Vec::new()")]
    pub eos_token_ids: Vec<u32>,
}

impl DecoderConfig {
    /// Number of parameters of the dense model, counted without building it.
    pub fn parameters(&self) -> u128 {
        let size = |size: usize| size as u128;
        let (width, layers) = (size(self.hidden_size), size(self.num_hidden_layers));
        let (mut channels, mut experts) = (0, 0);
        for layer in 0..self.num_hidden_layers {
            match self.mixture_of(layer) {
                Some(mixture) => experts += mixture.parameters(self.hidden_size),
                None => channels += size(self.mlp_width(layer)),
            }
        }
        let queries = size(self.num_attention_heads) * size(self.head_dim);
        let keys = size(self.num_key_value_heads) * size(self.head_dim);
        let biases = [(self.qkv_bias, queries + 2 * keys), (self.output_bias, width)];
        let biases: u128 = biases.iter().filter(|(has, _)| *has).map(|(_, size)| size).sum();
        let norm = |width: u128| width * self.norm.vectors();
        let head_norms = match self.qk_norm {
            QkNorm::None => 0,
            QkNorm::Head => 2 * norm(size(self.head_dim)),
            QkNorm::Whole => norm(queries) + norm(keys),
            QkNorm::EachHead | QkNorm::EachHeadApart => queries + keys,
        };
        let norms = norm(width) * self.layout.norms().iter().flatten().count() as u128 + head_norms;
        let sinks = if self.attention_sinks { size(self.num_attention_heads) } else { 0 };
        let attention = match self.latent {
            Some(latent) => {
                let biases = [self.qkv_bias, self.output_bias];
                latent.parameters(self.hidden_size, self.num_attention_heads, biases)
            }
            None => 2 * width * (queries + keys) + biases,
        };
        let layer = attention + norms + sinks;
        let inputs: u128 = if self.mlp.is_gated() { 2 } else { 1 };
        let channel = (inputs + 1) * width + if self.mlp_bias { inputs } else { 0 };
        let dense = (0..self.num_hidden_layers).filter(|layer| self.mixture_of(*layer).is_none());
        let down_biases = if self.mlp_bias { width * dense.count() as u128 } else { 0 };
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        let positions = if self.learned_positions { size(self.position_rows()) } else { 0 };
        let outer = (tables * size(self.vocab_size) + positions) * width + norm(width);
        outer + layers * layer + channels * channel + down_biases + experts
    }

    /// Whether a layer has the sliding window.
    pub fn has_window(&self, layer: usize) -> bool {
        self.sliding_window.is_some()
            && match &self.window_layers {
                Some(layers) => layers.get(layer) == Some(&true),
                None => layer >= self.first_window_layer,
            }
    }

    /// What scores of attention are multiplied by in a layer; `None` for `head_dim^(-1/2)`.
    pub fn attention_scale_of(&self, layer: usize) -> Option<f64> {
        if !self.scales_by_layer {
            return self.attention_scale;
        }
        let scale = self.attention_scale.unwrap_or((self.head_dim as f64).powf(-0.5));
        Some(scale / (layer + 1) as f64)
    }

    /// Whether a layer has rotary positions.
    pub fn has_rotary(&self, layer: usize) -> bool {
        self.rotary_layers.as_ref().is_none_or(|layers| layers.get(layer) == Some(&true))
    }

    /// The experts of a layer, if it has them in the place of one MLP.
    pub fn mixture_of(&self, layer: usize) -> Option<&MixtureConfig> {
        self.mixture.as_ref().filter(|mixture| mixture.is_in(layer))
    }

    /// Longest context that the model supports, in tokens: `max_position_embeddings`, or what
    /// dynamic scaling and YaRN make of the context that they scale, if that is longer.
    pub fn context(&self) -> usize {
        self.rope_scaling.context(self.max_position_embeddings)
    }

    /// Number of rows of a table of learned positions.
    pub fn position_rows(&self) -> usize {
        self.position_offset + self.max_position_embeddings
    }

    /// Width of the MLP of a layer.
    pub fn mlp_width(&self, layer: usize) -> usize {
        let own = self.intermediate_sizes.as_ref().and_then(|widths| widths.get(layer));
        own.copied().unwrap_or(self.intermediate_size)
    }

    /// Number of keys and values that a cache holds for this many positions of one sequence.
    pub fn cached_values(&self, positions: usize) -> u128 {
        let size = |size: usize| size as u128;
        let width = self.latent.map_or(self.head_dim, |latent| latent.width());
        let keys = size(self.num_key_value_heads) * size(width);
        2 * size(self.num_hidden_layers) * keys * size(positions)
    }
}

/// Where the norms of a block are, and whether its two parts have the same input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BlockLayout {
    /// A norm before each part: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
    #[default]
    Before,
    /// A norm after each part: `x + norm(attention(x))`, then `x + norm(mlp(x))` (OLMo 2).
    After,
    /// A norm before and after each part (Gemma 2).
    Around,
    /// Both parts have the same input and the same norm: `x + attention(norm(x)) + mlp(norm(x))`
    /// (Cohere).
    SharedNorm,
    /// Both parts have the same input, and each has a norm: `x + attention(norm(x)) + mlp(norm(x))`
    /// (GPT-NeoX).
    Parallel,
}

impl BlockLayout {
    /// The norms before and after attention, then before and after the MLP: their fields in a block.
    pub(crate) fn norms(self) -> [Option<&'static str>; 4] {
        let (input, second) = (Some("input_layernorm"), Some("post_attention_layernorm"));
        let last = Some("post_feedforward_layernorm");
        match self {
            Self::Before | Self::Parallel => [input, None, second, None],
            Self::After => [None, second, None, last],
            Self::Around => [input, second, Some("pre_feedforward_layernorm"), last],
            Self::SharedNorm => [input, None, None, None],
        }
    }

    /// Whether attention and MLP are added to the residual stream as they are.
    pub(super) fn adds_outputs(self) -> bool {
        let [_, after_attention, _, after_mlp] = self.norms();
        after_attention.is_none() && after_mlp.is_none()
    }
}

/// Which matrices project to queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum QkvLayout {
    /// `q_proj`, `k_proj` and `v_proj`.
    #[default]
    Separate,
    /// One matrix: all queries, then all keys, then all values (Phi-3).
    Fused,
    /// One matrix: for each head of keys its queries, then its key and its value, one after the other
    /// (GPT-NeoX, Falcon 40B).
    FusedByHead,
}

/// Norms of queries and keys, before they are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum QkNorm {
    /// There are none.
    #[default]
    None,
    /// Each head by itself, with the same weight for all (Qwen3).
    Head,
    /// All heads together (OLMo 2).
    Whole,
    /// Each head by itself, with weights of its own in one tensor for all. These norms subtract the mean
    /// and have no bias, whatever others do (Command R+).
    EachHead,
    /// The same with a tensor for each head (StableLM 2 12B).
    EachHeadApart,
}

/// Which matrices an MLP has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MlpLayout {
    /// `down_proj(f(gate_proj(x)) · up_proj(x))` (arXiv 2002.05202).
    #[default]
    Gated,
    /// The same with one matrix, `gate_up_proj`, for both inputs (Phi-3).
    FusedGated,
    /// `down_proj(f(up_proj(x)))` (Arcee).
    Plain,
}

impl MlpLayout {
    /// Whether there is a gate.
    pub(super) fn is_gated(self) -> bool {
        matches!(self, Self::Gated | Self::FusedGated)
    }
}
