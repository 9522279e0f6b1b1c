use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{Embedding, EmbeddingConfig, Initializer, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, FloatDType, Int, Tensor};

use super::attention::CausalMask;
use super::block::{Block, normed};
use super::cache::KvCache;
use super::config::LlamaConfig;
use super::rotary::{Rotary, RotaryTable};
use crate::language::LanguageModel;
use crate::linear::{LowRankLinear, LowRankLinearConfig};

/// A causal language model of the LLaMA family.
///
/// Should be created with [`LlamaConfig`], or loaded with [`load_llama`](super::load_llama).
/// Parameter paths are the Hugging Face tensor names (norms have Burn's `gamma` for
/// `weight`), so plans apply by name.
#[derive(Module, Debug)]
pub struct Llama {
    /// Embedding, blocks and last norm.
    pub model: LlamaModel,
    /// Head, `[hidden_size, vocab_size]`; `None` when it is the transposed embedding.
    pub lm_head: Option<LowRankLinear>,
}

/// Everything below the head.
#[derive(Module, Debug)]
pub struct LlamaModel {
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
}

/// The layers from `first_layer` on see `size` tokens only.
#[derive(Debug, Clone, Copy)]
struct Window {
    size: usize,
    first_layer: usize,
}

impl LlamaConfig {
    /// Initialize a new [`Llama`] model. Parameters are created lazily, on first use or when
    /// weights are loaded.
    pub fn init(&self, device: &Device) -> Llama {
        let initializer = Initializer::Normal { mean: 0.0, std: self.initializer_range };
        Llama {
            model: LlamaModel {
                embed_tokens: EmbeddingConfig::new(self.vocab_size, self.hidden_size)
                    .with_initializer(initializer.clone())
                    .init(device),
                layers: (0..self.num_hidden_layers).map(|_| Block::new(self, device)).collect(),
                norm: RmsNormConfig::new(self.hidden_size)
                    .with_epsilon(self.rms_norm_eps)
                    .init(device),
                rotary: Rotary::new(self),
                window: self
                    .sliding_window
                    .map(|size| Window { size, first_layer: self.first_window_layer }),
                dtype: FloatDType::F32,
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

impl Llama {
    /// Computes in `dtype` from here on: the hidden states have it, and parameters of another
    /// type are cast to it where they are used. Norms, rotary positions, the softmax of
    /// training, and logits are f32 in any case.
    pub fn with_dtype(mut self, dtype: FloatDType) -> Self {
        self.model.dtype = dtype;
        self
    }

    /// Draws all parameters that are not there yet, in the order of their paths: the same
    /// seed gives the same model on the same kind of device.
    pub fn initialize(&self, seed: u64, device: &Device) {
        struct Draw;
        impl ModuleVisitor for Draw {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                // Reading a lazy parameter draws it.
                let _drawn = param.base();
            }
        }
        device.seed(seed);
        self.visit(&mut Draw);
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
    /// Backends panic or clamp when a token is not below `vocab_size`: check ids first.
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
            None => {
                // As matrices: the transposed embedding is then read in place, while a batched
                // product would first copy all of it.
                let [batch, positions, width] = hidden.dims();
                let embedding = self.model.embed_tokens.weight.val();
                let [vocab_size, _] = embedding.dims();
                let embedding = embedding.cast(FloatDType::from(hidden.dtype()));
                hidden
                    .reshape([batch * positions, width])
                    .matmul(embedding.transpose())
                    .reshape([batch, positions, vocab_size])
            }
        };
        logits.cast(FloatDType::F32)
    }

    /// Number of tokens the model knows.
    pub fn vocab_size(&self) -> usize {
        self.model.embed_tokens.weight.lazy_shape()[0]
    }
}

impl LanguageModel for Llama {
    type Pass = Pass;

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
        Llama::logits(self, hidden)
    }

    fn vocab_size(&self) -> usize {
        Llama::vocab_size(self)
    }
}

/// Positions and masks of one pass over tokens, which all blocks share.
#[derive(Debug, Clone)]
pub struct Pass {
    rotary: RotaryTable,
    full: CausalMask,
    windowed: CausalMask,
}

impl LlamaModel {
    /// Normed hidden states of every position. With a cache, `tokens` continue what is
    /// cached, and the cache grows by them.
    ///
    /// # Shapes
    ///
    /// - tokens: `[batch, positions]`
    /// - output: `[batch, positions, hidden_size]`
    pub fn forward(&self, tokens: Tensor<2, Int>, mut cache: Option<&mut KvCache>) -> Tensor<3> {
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

    /// Embeds tokens whose first one has position `start`.
    fn begin(&self, tokens: Tensor<2, Int>, start: usize) -> (Tensor<3>, Pass) {
        let [_, positions] = tokens.dims();
        let device = tokens.device();
        let mask = |window| CausalMask::new(window, positions, start + positions, &device);
        let full = mask(None);
        let windowed = self.window.map_or_else(|| full.clone(), |window| mask(Some(window.size)));
        let rotary = self.rotary.table(start, positions, &device);
        let embedded = self.embed_tokens.forward(tokens).cast(self.dtype);
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
