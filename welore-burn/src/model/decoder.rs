use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, FloatDType, Int, Tensor};

use super::attention::CausalMask;
use super::block::{Block, normed};
use super::cache::KvCache;
use super::config::DecoderConfig;
use super::language::{LanguageModel, ModelMatrix};
use super::rotary::{Rotary, RotaryTable};
use crate::forms::{apply_transposed, look_up, weight_shape};
use crate::linear::{LowRankLinear, LowRankLinearConfig};

/// A decoder-only language model, described by a [`DecoderConfig`].
///
/// Should be created with [`DecoderConfig`], or loaded with [`load_model`](super::load_model).
/// Parameter paths are the Hugging Face tensor names (norms use Burn's `gamma` instead of
/// `weight`), so plans apply by name.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Embedding, blocks and final norm.
    pub model: DecoderBody,
    /// Head, `[hidden_size, vocab_size]`; `None` if it is the transposed embedding.
    pub lm_head: Option<LowRankLinear>,
}

/// Everything below the head.
#[derive(Module, Debug)]
pub struct DecoderBody {
    /// Token embedding, `[vocab_size, hidden_size]`.
    pub embed_tokens: Embedding,
    /// The blocks.
    pub layers: Vec<Block>,
    /// Norm after the last block.
    pub norm: RmsNorm,
    #[module(skip)]
    rotary: Rotary,
    #[module(skip)]
    window: Option<Window>,
    #[module(skip)]
    dtype: FloatDType,
    #[module(skip)]
    context: usize,
}

/// Layers from `first_layer` on see only `size` tokens.
#[derive(Debug, Clone, Copy)]
struct Window {
    size: usize,
    first_layer: usize,
}

impl DecoderConfig {
    /// Initialize a new [`Decoder`]. Parameters are created lazily, on first use or when
    /// weights are loaded.
    pub fn init(&self, device: &Device) -> Decoder {
        let initializer = Initializer::Normal { mean: 0.0, std: self.initializer_range };
        Decoder {
            model: DecoderBody {
                embed_tokens: EmbeddingConfig::new(self.vocab_size, self.hidden_size)
                    .with_initializer(initializer.clone())
                    .init(device),
                layers: (0..self.num_hidden_layers)
                    .map(|layer| Block::new(self, layer, device))
                    .collect(),
                norm: RmsNormConfig::new(self.hidden_size)
                    .with_epsilon(self.rms_norm_eps)
                    .init(device),
                rotary: Rotary::new(self),
                window: self
                    .sliding_window
                    .map(|size| Window { size, first_layer: self.first_window_layer }),
                dtype: FloatDType::F32,
                context: self.context(),
            },
            lm_head: (!self.tie_word_embeddings).then(|| {
                LowRankLinearConfig::new(self.hidden_size, self.vocab_size)
                    .with_bias(false)
                    .with_initializer(initializer)
                    .init(device)
            }),
        }
    }
}

impl Decoder {
    /// Computes in `dtype` from now on: the hidden states have this type, and parameters of
    /// another type are cast to it where they are used. Norms, rotary positions, the softmax in
    /// training, and logits are always f32.
    pub fn with_dtype(mut self, dtype: FloatDType) -> Self {
        self.model.dtype = dtype;
        self
    }

    /// Logits of every position, f32.
    ///
    /// # Shapes
    ///
    /// - tokens: `[batch, positions]`
    /// - output: `[batch, positions, vocab_size]`
    ///
    /// # Panics
    ///
    /// Depending on the backend, a token that is not below `vocab_size` panics or is clamped: check
    /// ids first.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.logits(self.model.forward(tokens, None))
    }

    /// Logits of hidden states, f32: the head alone.
    ///
    /// # Shapes
    ///
    /// - hidden: `[batch, positions, hidden_size]`
    /// - output: `[batch, positions, vocab_size]`
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let logits = match &self.lm_head {
            Some(head) => head.forward(hidden),
            None => apply_transposed(&self.model.embed_tokens.weight, hidden),
        };
        logits.cast(FloatDType::F32)
    }
}

impl LanguageModel for Decoder {
    type Pass = Pass;
    type Cache = KvCache;

    fn begin(&self, tokens: Tensor<2, Int>) -> (Tensor<3>, Pass) {
        self.model.begin(tokens, 0)
    }

    fn blocks(&self) -> usize {
        self.model.layers.len()
    }

    fn block(&self, index: usize, x: Tensor<3>, pass: &Pass) -> Tensor<3> {
        self.model.block(index, x, pass, None)
    }

    fn end(&self, x: Tensor<3>) -> Tensor<3> {
        normed(&self.model.norm, x)
    }

    fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        Decoder::logits(self, hidden)
    }

    fn vocab_size(&self) -> usize {
        weight_shape(&self.model.embed_tokens.weight)[0]
    }

    fn context(&self) -> usize {
        self.model.context
    }

    fn matrices(&self) -> Vec<ModelMatrix> {
        let matrices = (0..self.blocks()).flat_map(|block| {
            PROJECTIONS.map(|(path, writes_residual)| ModelMatrix {
                name: format!("model.layers.{block}.{path}").into(),
                block,
                writes_residual,
            })
        });
        matrices.collect()
    }

    fn cache(&self) -> KvCache {
        KvCache::new()
    }

    fn extend(&self, tokens: Tensor<2, Int>, cache: &mut KvCache) -> Tensor<3> {
        self.model.forward(tokens, Some(cache))
    }
}

/// The projections of a block, and whether they write to the residual stream.
const PROJECTIONS: [(&str, bool); 7] = [
    ("self_attn.q_proj", false),
    ("self_attn.k_proj", false),
    ("self_attn.v_proj", false),
    ("self_attn.o_proj", true),
    ("mlp.gate_proj", false),
    ("mlp.up_proj", false),
    ("mlp.down_proj", true),
];

/// Positions and masks of one pass over tokens, shared by all blocks.
#[derive(Debug, Clone)]
pub struct Pass {
    rotary: RotaryTable,
    full: CausalMask,
    windowed: CausalMask,
}

impl DecoderBody {
    /// Hidden states of every position after the final norm. With a cache, `tokens` continue the
    /// cached positions and are added to the cache.
    ///
    /// Where the rotary frequencies depend on the length and these tokens change them, all cached
    /// positions are computed again, so that the result is that of the whole sequence.
    ///
    /// # Shapes
    ///
    /// - tokens: `[batch, positions]`
    /// - output: `[batch, positions, hidden_size]`
    pub fn forward(&self, tokens: Tensor<2, Int>, cache: Option<&mut KvCache>) -> Tensor<3> {
        let cache = match cache {
            Some(cache) if self.rotary.depends_on_length() => cache,
            cache => return self.pass(tokens, cache),
        };
        let [_, new] = tokens.dims();
        let seen = cache.len();
        let all = cache.remember(tokens.clone());
        if seen == 0 || self.rotary.is_same(seen, seen + new) {
            return self.pass(tokens, Some(cache));
        }
        // Other frequencies give other scores, so all that is cached but the first layer's values
        // is another model's.
        cache.forget();
        self.pass(all, Some(cache)).narrow(1, seen, new)
    }

    fn pass(&self, tokens: Tensor<2, Int>, mut cache: Option<&mut KvCache>) -> Tensor<3> {
        let [_, positions] = tokens.dims();
        let start = cache.as_ref().map_or(0, |cache| cache.len());
        let (mut x, pass) = self.begin(tokens, start);
        for index in 0..self.layers.len() {
            x = self.block(index, x, &pass, cache.as_deref_mut());
        }
        if let Some(cache) = cache {
            cache.advance(positions);
        }
        normed(&self.norm, x)
    }

    /// Embeds tokens, the first of which has position `start`.
    fn begin(&self, tokens: Tensor<2, Int>, start: usize) -> (Tensor<3>, Pass) {
        let [_, positions] = tokens.dims();
        let device = tokens.device();
        let mask = |window| CausalMask::new(window, positions, start + positions, &device);
        let full = mask(None);
        let windowed = self.window.map_or_else(|| full.clone(), |window| mask(Some(window.size)));
        let rotary = self.rotary.table(start, positions, &device);
        let embedded = look_up(&self.embed_tokens.weight, tokens).cast(self.dtype);
        (embedded, Pass { rotary, full, windowed })
    }

    fn block(
        &self,
        index: usize,
        x: Tensor<3>,
        pass: &Pass,
        cache: Option<&mut KvCache>,
    ) -> Tensor<3> {
        let mask = match self.window {
            Some(window) if index >= window.first_layer => &pass.windowed,
            _ => &pass.full,
        };
        self.layers[index].forward(x, &pass.rotary, mask, cache.map(|cache| (cache, index)))
    }
}
