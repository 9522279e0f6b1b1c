use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{Device, FloatDType, Int, Tensor};

use super::attend::CausalMask;
use super::block::Block;
use super::cache::KvCache;
use super::config::DecoderConfig;
use super::language::{LanguageModel, ModelMatrix, TokenScales};
use super::names::Names;
use super::norm::{Norm, NormConfig};
use super::rotary::{Rotary, RotaryTable};
use crate::forms::{apply_transposed, look_up, weight_shape};
use crate::linear::{LowRankLinear, LowRankLinearConfig};

/// A decoder-only language model, described by a [`DecoderConfig`].
///
/// Should be created with [`DecoderConfig`], or loaded with [`load_model`](super::load_model).
/// Parameter paths are the Hugging Face tensor names, also where a family has [other ones](Names)
/// than the fields here (norms use Burn's `gamma` instead of `weight`), so plans apply by name.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Embedding, blocks and final norm.
    pub model: DecoderBody,
    /// Head, `[hidden_size, vocab_size]`; `None` if it is the transposed embedding.
    pub lm_head: Option<LowRankLinear>,
    pub(super) names: Names,
    pub(super) logit_scale: Option<f64>,
    pub(super) logit_cap: Option<f64>,
}

/// Everything below the head.
#[derive(Module, Debug)]
pub struct DecoderBody {
    /// Token embedding, `[vocab_size, hidden_size]`.
    pub embed_tokens: Embedding,
    /// What is added to the embeddings of tokens, `[position_rows, hidden_size]`, where positions are
    /// learned.
    pub embed_positions: Option<Embedding>,
    /// The blocks.
    pub layers: Vec<Block>,
    /// Norm after the last block.
    pub norm: Norm,
    #[module(skip)]
    rotary: Rotary,
    /// The rotary positions of layers with the sliding window, if they differ.
    #[module(skip)]
    window_rotary: Option<Rotary>,
    #[module(skip)]
    window: Option<usize>,
    /// What each layer sees.
    #[module(skip)]
    sights: Vec<Sight>,
    #[module(skip)]
    embedding_scale: Option<f64>,
    /// Number of rows of `embed_positions` before the one of the first position.
    #[module(skip)]
    position_offset: usize,
    #[module(skip)]
    dtype: FloatDType,
    #[module(skip)]
    context: usize,
}

/// What a layer sees of the tokens before it.
#[derive(Debug, Clone, Copy)]
struct Sight {
    /// Whether it sees only those in the sliding window.
    in_window: bool,
    /// Whether it sees their positions.
    rotary: bool,
}

impl DecoderConfig {
    /// Initialize a new [`Decoder`]. Parameters are created lazily, on first use or when
    /// weights are loaded.
    pub fn init(&self, device: &Device) -> Decoder {
        let initializer = Initializer::Normal { mean: 0.0, std: self.initializer_range };
        let embedding = |rows| {
            EmbeddingConfig::new(rows, self.hidden_size)
                .with_initializer(initializer.clone())
                .init(device)
        };
        let positions = self.learned_positions.then_some(self.position_rows());
        Decoder {
            model: DecoderBody {
                embed_tokens: embedding(self.vocab_size),
                embed_positions: positions.map(embedding),
                layers: (0..self.num_hidden_layers)
                    .map(|layer| Block::new(self, layer, device))
                    .collect(),
                norm: NormConfig::new(self.hidden_size)
                    .with_kind(self.norm)
                    .with_epsilon(self.rms_norm_eps)
                    .init(device),
                rotary: Rotary::new(self),
                window_rotary: Rotary::of_windows(self),
                window: self.sliding_window,
                sights: (0..self.num_hidden_layers)
                    .map(|layer| Sight {
                        in_window: self.has_window(layer),
                        rotary: self.has_rotary(layer),
                    })
                    .collect(),
                embedding_scale: self.embedding_scale,
                position_offset: self.position_offset,
                dtype: FloatDType::F32,
                context: self.context(),
            },
            lm_head: (!self.tie_word_embeddings).then(|| {
                LowRankLinearConfig::new(self.hidden_size, self.vocab_size)
                    .with_bias(false)
                    .with_initializer(initializer)
                    .init(device)
            }),
            names: self.names,
            logit_scale: self.logit_scale,
            logit_cap: self.logit_cap,
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
    /// ids first. The same holds for positions beyond the context, where they are learned.
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
        let logits = logits.cast(FloatDType::F32);
        let logits = match self.logit_scale {
            Some(scale) => logits.mul_scalar(scale),
            None => logits,
        };
        match self.logit_cap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
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
        self.model.norm.forward(x)
    }

    fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        Decoder::logits(self, hidden)
    }

    fn token_scales(&self) -> TokenScales {
        TokenScales {
            embedding: self.model.embedding_scale.unwrap_or(1.0),
            head: self.logit_scale.unwrap_or(1.0),
        }
    }

    fn vocab_size(&self) -> usize {
        weight_shape(&self.model.embed_tokens.weight)[0]
    }

    fn context(&self) -> usize {
        self.model.context
    }

    fn matrices(&self) -> Vec<ModelMatrix> {
        let of_block = |(block, layer): (usize, &Block)| {
            let matrices = layer.matrices().into_iter();
            matrices
                .map(|(path, writes_residual)| ModelMatrix {
                    name: self.names.of_path(&format!("model.layers.{block}.{path}")).into(),
                    block,
                    writes_residual,
                })
                .collect::<Vec<_>>()
        };
        self.model.layers.iter().enumerate().flat_map(of_block).collect()
    }

    fn cache(&self) -> KvCache {
        KvCache::new()
    }

    fn shorten_cache(&self, cache: &mut KvCache, positions: usize) -> bool {
        // Keys of other rotary frequencies are not those of a shorter text.
        let is_same = self.model.rotaries().all(|rotary| rotary.is_same(cache.len(), positions));
        is_same && cache.shorten(positions)
    }

    fn extend(&self, tokens: Tensor<2, Int>, cache: &mut KvCache) -> Tensor<3> {
        self.model.forward(tokens, Some(cache))
    }
}

/// Positions and masks of one pass over tokens, shared by all blocks.
#[derive(Debug, Clone)]
pub struct Pass {
    rotary: RotaryTable,
    window_rotary: Option<RotaryTable>,
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
            Some(cache) if self.rotaries().any(Rotary::depends_on_length) => cache,
            cache => return self.pass(tokens, cache),
        };
        let [_, new] = tokens.dims();
        let seen = cache.len();
        let all = cache.remember(tokens.clone());
        if seen == 0 || self.rotaries().all(|rotary| rotary.is_same(seen, seen + new)) {
            return self.pass(tokens, Some(cache));
        }
        // Other frequencies give other scores, so all that is cached but the first layer's values
        // is another model's.
        cache.forget();
        self.pass(all, Some(cache)).narrow(1, seen, new)
    }

    fn rotaries(&self) -> impl Iterator<Item = &Rotary> {
        [&self.rotary].into_iter().chain(&self.window_rotary)
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
        self.norm.forward(x)
    }

    /// Embeds tokens, the first of which has position `start`.
    fn begin(&self, tokens: Tensor<2, Int>, start: usize) -> (Tensor<3>, Pass) {
        let [_, positions] = tokens.dims();
        let device = tokens.device();
        let mask = |window| CausalMask::new(window, positions, start + positions, &device);
        let full = mask(None);
        let windowed = self.window.map_or_else(|| full.clone(), |window| mask(Some(window)));
        let table = |rotary: &Rotary| rotary.table(start, positions, &device);
        let (rotary, window_rotary) = (table(&self.rotary), self.window_rotary.as_ref().map(table));
        let embedded = look_up(&self.embed_tokens.weight, tokens).cast(self.dtype);
        let embedded = match self.embedding_scale {
            Some(scale) => embedded.mul_scalar(scale),
            None => embedded,
        };
        let embedded = match &self.embed_positions {
            Some(table) => {
                let first = self.position_offset + start;
                let numbers = first as i64..(first + positions) as i64;
                let numbers = Tensor::<1, Int>::arange(numbers, &device).reshape([1, positions]);
                embedded + look_up(&table.weight, numbers).cast(self.dtype)
            }
            None => embedded,
        };
        (embedded, Pass { rotary, window_rotary, full, windowed })
    }

    fn block(
        &self,
        index: usize,
        x: Tensor<3>,
        pass: &Pass,
        cache: Option<&mut KvCache>,
    ) -> Tensor<3> {
        let sight = self.sights[index];
        let (mask, rotary) = match sight.in_window {
            true => (&pass.windowed, pass.window_rotary.as_ref().unwrap_or(&pass.rotary)),
            false => (&pass.full, &pass.rotary),
        };
        let rotary = sight.rotary.then_some(rotary);
        self.layers[index].forward(x, rotary, mask, cache.map(|cache| (cache, index)))
    }
}
