use burn::config::Config;

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
    /// Number of tokens that a query sees, including its own (Mistral); `None` for all up to it.
    pub sliding_window: Option<usize>,
    /// First layer with the sliding window.
    #[config(default = 0)]
    pub first_window_layer: usize,
    /// Standard deviation of newly initialized weights.
    #[config(default = 0.02)]
    pub initializer_range: f64,
    /// Width of the MLP of each layer, one for each, if layers differ. transformers and most programs
    /// want one width for all.
    pub intermediate_sizes: Option<Vec<usize>>,
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
        let channels: u128 = match &self.intermediate_sizes {
            Some(widths) => widths.iter().map(|width| *width as u128).sum(),
            None => layers * size(self.intermediate_size),
        };
        let queries = size(self.num_attention_heads) * size(self.head_dim);
        let keys = size(self.num_key_value_heads) * size(self.head_dim);
        let biases = [
            (self.qkv_bias, queries + 2 * keys),
            (self.output_bias, width),
            (self.mlp_bias, width),
        ];
        let biases: u128 = biases.iter().filter(|(has, _)| *has).map(|(_, size)| size).sum();
        let norms = 2 * width;
        let layer = 2 * width * (queries + keys) + biases + norms;
        let channel = 3 * width + if self.mlp_bias { 2 } else { 0 };
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        tables * size(self.vocab_size) * width + layers * layer + channels * channel + width
    }

    /// Longest context that the model supports, in tokens: `max_position_embeddings`, or what
    /// dynamic scaling and YaRN make of the context that they scale, if that is longer.
    pub fn context(&self) -> usize {
        self.rope_scaling.context(self.max_position_embeddings)
    }

    /// Width of the MLP of a layer.
    pub fn mlp_width(&self, layer: usize) -> usize {
        let own = self.intermediate_sizes.as_ref().and_then(|widths| widths.get(layer));
        own.copied().unwrap_or(self.intermediate_size)
    }

    /// Number of keys and values that a cache holds for this many positions of one sequence.
    pub fn cached_values(&self, positions: usize) -> u128 {
        let size = |size: usize| size as u128;
        let keys = size(self.num_key_value_heads) * size(self.head_dim);
        2 * size(self.num_hidden_layers) * keys * size(positions)
    }
}
