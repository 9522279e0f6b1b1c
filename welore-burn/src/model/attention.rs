use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Tensor};

use super::attend::{CausalMask, attend};
use super::cache::KvCache;
use super::config::{DecoderConfig, QkNorm, QkvLayout};
use super::latent::LatentConfig;
use super::norm::{HeadNorm, Norm, NormConfig, NormKind};
use super::rotary::RotaryTable;
use crate::linear::{LowRankLinear, LowRankLinearConfig};

/// Configuration to create an [`Attention`] layer using the [init function](AttentionConfig::init).
#[derive(Config, Debug)]
pub struct AttentionConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Whether the query, key and value projections have a bias.
    #[config(default = false)]
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    #[config(default = false)]
    pub output_bias: bool,
    /// Which matrices project to queries, keys and values.
    #[config(default = "QkvLayout::Separate")]
    pub qkv: QkvLayout,
    /// Norms of queries and keys.
    #[config(default = "QkNorm::None")]
    pub qk_norm: QkNorm,
    /// What these norms do, unless each head has weights of its own.
    #[config(default = "NormKind::Rms")]
    pub norm: NormKind,
    /// Added to the mean square, or to the variance, in these norms.
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// What scores are multiplied by; `None` for `head_dim^(-1/2)`.
    pub scale: Option<f64>,
    /// The cap of scores.
    pub cap: Option<f64>,
    /// The largest absolute value of numbers in queries, keys and values.
    pub clip: Option<f64>,
    /// Whether each head has a score of something that it sees beside all keys, and that gives nothing.
    #[config(default = false)]
    pub sinks: bool,
    /// The widths of latent attention (DeepSeek).
    pub latent: Option<LatentConfig>,
    /// The type of function used to initialize weights.
    #[config(default = "Initializer::Normal{mean: 0.0, std: 0.02}")]
    pub initializer: Initializer,
}

impl From<&DecoderConfig> for AttentionConfig {
    fn from(config: &DecoderConfig) -> Self {
        Self::new(
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        .with_qkv_bias(config.qkv_bias)
        .with_output_bias(config.output_bias)
        .with_qkv(config.qkv)
        .with_qk_norm(config.qk_norm)
        .with_norm(config.norm)
        .with_epsilon(config.rms_norm_eps)
        .with_scale(config.attention_scale)
        .with_cap(config.attention_cap)
        .with_clip(config.qkv_clip)
        .with_sinks(config.attention_sinks)
        .with_latent(config.latent)
        .with_initializer(Initializer::Normal { mean: 0.0, std: config.initializer_range })
    }
}

impl AttentionConfig {
    /// Initialize a new [`Attention`] layer.
    pub fn init(&self, device: &Device) -> Attention {
        let linear = |d_input, d_output, bias| {
            LowRankLinearConfig::new(d_input, d_output)
                .with_bias(bias)
                .with_initializer(self.initializer.clone())
                .init(device)
        };
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let fused = self.qkv != QkvLayout::Separate;
        let (hidden, bias, latent) = (self.hidden_size, self.qkv_bias, self.latent);
        let own = |width| (!fused && latent.is_none()).then(|| linear(hidden, width, bias));
        let short = latent.and_then(|latent| latent.queries_from);
        // Those of the short vectors have the same epsilon in all files.
        let of_short = |width| NormConfig::new(width).with_epsilon(1e-6).init(device);
        let of_values = latent.map_or(self.head_dim, |latent| latent.values);
        let heads = [self.heads, self.kv_heads];
        let [q_norm, k_norm] = heads.map(|heads| self.norm(heads, device));
        let [q_head_norm, k_head_norm] = heads.map(|heads| self.head_norm(heads, device));
        Attention {
            q_proj: match latent {
                Some(_) => short.is_none().then(|| linear(hidden, queries, false)),
                None => own(queries),
            },
            k_proj: own(keys),
            v_proj: own(keys),
            qkv_proj: fused.then(|| linear(hidden, queries + 2 * keys, bias)),
            q_a_proj: short.map(|width| linear(hidden, width, bias)),
            q_a_layernorm: short.map(of_short),
            q_b_proj: short.map(|width| linear(width, queries, false)),
            kv_a_proj_with_mqa: latent
                .map(|latent| linear(hidden, latent.keys_from + latent.rotated, bias)),
            kv_a_layernorm: latent.map(|latent| of_short(latent.keys_from)),
            kv_b_proj: latent.map(|latent| {
                let width = self.heads * (latent.plain + latent.values);
                linear(latent.keys_from, width, false)
            }),
            o_proj: linear(self.heads * of_values, hidden, self.output_bias),
            q_norm,
            k_norm,
            q_head_norm,
            k_head_norm,
            sinks: self.sinks.then(|| Initializer::Zeros.init([self.heads], device)),
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            by_head: self.qkv == QkvLayout::FusedByHead,
            norms_heads: self.qk_norm == QkNorm::Head,
            query_scale: self.query_scale(),
            cap: self.cap,
            clip: self.clip,
            latent,
        }
    }

    /// The norm of so many heads, if they do not have weights of their own.
    fn norm(&self, heads: usize, device: &Device) -> Option<Norm> {
        let width = match self.qk_norm {
            QkNorm::Head => self.head_dim,
            QkNorm::Whole => heads * self.head_dim,
            QkNorm::None | QkNorm::EachHead | QkNorm::EachHeadApart => return None,
        };
        Some(NormConfig { width, kind: self.norm, epsilon: self.epsilon }.init(device))
    }

    /// The norm of so many heads, if each has weights of its own.
    fn head_norm(&self, heads: usize, device: &Device) -> Option<HeadNorm> {
        let (width, epsilon) = (self.head_dim, self.epsilon);
        match self.qk_norm {
            QkNorm::EachHead => Some(HeadNorm::joined(heads, width, epsilon, device)),
            QkNorm::EachHeadApart => Some(HeadNorm::apart(heads, width, epsilon, device)),
            QkNorm::None | QkNorm::Head | QkNorm::Whole => None,
        }
    }

    /// What queries are multiplied by, beside the root of the width in which heads attend.
    fn query_scale(&self) -> Option<f64> {
        let width = self.latent.map_or(self.head_dim, |latent| latent.width());
        let usual = (width != self.head_dim).then(|| (self.head_dim as f64).powf(-0.5));
        self.scale.or(usual).map(|scale| scale * (width as f64).sqrt())
    }
}

/// Causal self-attention with grouped keys and values (GQA, arXiv 2305.13245) and rotary
/// positions.
///
/// Should be created with [`AttentionConfig`].
#[derive(Module, Debug)]
pub struct Attention {
    /// Query projection, `[hidden_size, heads * head_dim]`.
    pub q_proj: Option<LowRankLinear>,
    /// Key projection, `[hidden_size, kv_heads * head_dim]`.
    pub k_proj: Option<LowRankLinear>,
    /// Value projection, `[hidden_size, kv_heads * head_dim]`.
    pub v_proj: Option<LowRankLinear>,
    /// The three of them in one, `[hidden_size, (heads + 2 * kv_heads) * head_dim]`.
    pub qkv_proj: Option<LowRankLinear>,
    /// Projection to the short vector of queries, in latent attention.
    pub q_a_proj: Option<LowRankLinear>,
    /// Norm of that vector.
    pub q_a_layernorm: Option<Norm>,
    /// Projection from there, `[width, heads * head_dim]`.
    pub q_b_proj: Option<LowRankLinear>,
    /// Projection to the short vector of keys and values and to the channels of keys that see
    /// positions.
    pub kv_a_proj_with_mqa: Option<LowRankLinear>,
    /// Norm of that vector.
    pub kv_a_layernorm: Option<Norm>,
    /// Projection from there to the other channels of keys, and to values, head by head.
    pub kv_b_proj: Option<LowRankLinear>,
    /// Output projection, `[heads * head_dim, hidden_size]`.
    pub o_proj: LowRankLinear,
    /// Norm of queries.
    pub q_norm: Option<Norm>,
    /// Norm of keys.
    pub k_norm: Option<Norm>,
    /// Norm of queries where each head has weights of its own.
    pub q_head_norm: Option<HeadNorm>,
    /// Norm of keys there.
    pub k_head_norm: Option<HeadNorm>,
    /// Scores that each head has beside those of keys, `[heads]`, where there are some (gpt-oss).
    pub sinks: Option<Param<Tensor<1>>>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Whether the fused projection gives one head of keys after the other, with its queries.
    #[module(skip)]
    by_head: bool,
    /// Whether the norms are of each head, not of all together.
    #[module(skip)]
    norms_heads: bool,
    /// What queries are multiplied by, beside the usual scale of the scores.
    #[module(skip)]
    query_scale: Option<f64>,
    #[module(skip)]
    cap: Option<f64>,
    #[module(skip)]
    clip: Option<f64>,
    #[module(skip)]
    latent: Option<LatentConfig>,
}

impl Attention {
    /// Applies the forward pass on the input tensor.
    ///
    /// `cache` is a cache and the number of this layer; with one, the input continues the cached
    /// positions. Without `rotary`, nothing tells positions apart but the order of what is seen.
    ///
    /// # Shapes
    ///
    /// - input and output: `[batch, positions, hidden_size]`
    pub fn forward(
        &self,
        x: Tensor<3>,
        rotary: Option<&RotaryTable>,
        mask: &CausalMask,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Tensor<3> {
        let [batch, positions, _] = x.dims();
        let [queries, keys, values] = match self.latent {
            Some(latent) => self.latent_parts(latent, x, rotary),
            None => self.placed(x, rotary),
        };
        let queries = match self.query_scale {
            Some(scale) => queries.mul_scalar(scale),
            None => queries,
        };

        let queries = queries.swap_dims(1, 2);
        let (keys, values) = (keys.swap_dims(1, 2), values.swap_dims(1, 2));
        let (keys, values) = match cache {
            Some((cache, layer)) => cache.extend(layer, keys, values),
            None => (keys, values),
        };
        let sinks = self.sinks.as_ref().map(|sinks| sinks.val());
        let context = attend(queries, keys, values, mask, self.cap, sinks.as_ref());
        let context = context.swap_dims(1, 2);
        let (context, width) = match self.latent {
            Some(latent) => (context.narrow(3, 0, latent.values), latent.values),
            None => (context, self.head_dim),
        };
        self.o_proj.forward(context.reshape([batch, positions, self.heads * width]))
    }

    /// Number of query heads.
    pub(super) fn heads(&self) -> usize {
        self.heads
    }

    /// Queries, keys and values with their positions, `[batch, positions, heads, head_dim]`.
    fn placed(&self, x: Tensor<3>, rotary: Option<&RotaryTable>) -> [Tensor<4>; 3] {
        let [batch, positions, _] = x.dims();
        let [queries, keys, values] = self.projected(x);
        let placed = |x: Tensor<4>| {
            let x = self.clipped(x);
            match rotary {
                Some(rotary) => rotary.rotate(x),
                None => x,
            }
        };
        let queries = self.normed(queries, &self.q_norm, &self.q_head_norm, self.heads);
        let keys = self.normed(keys, &self.k_norm, &self.k_head_norm, self.kv_heads);
        let (queries, keys) = (placed(queries), placed(keys));
        let values = self.clipped(values);
        let values = values.reshape([batch, positions, self.kv_heads, self.head_dim]);
        [queries, keys, values]
    }

    /// Queries, keys and values, each `[batch, positions, heads * head_dim]` with its own heads.
    fn projected(&self, x: Tensor<3>) -> [Tensor<3>; 3] {
        match &self.qkv_proj {
            Some(fused) if self.by_head => {
                let [batch, positions, _] = x.dims();
                let (heads, width) = (self.kv_heads, self.head_dim);
                // The queries of a head of keys.
                let queries = self.heads / heads * width;
                let all = fused.forward(x).reshape([batch, positions, heads, queries + 2 * width]);
                [(0, queries), (queries, width), (queries + width, width)].map(|(start, len)| {
                    let part = all.clone().narrow(3, start, len);
                    part.reshape([batch, positions, heads * len])
                })
            }
            Some(fused) => {
                let all = fused.forward(x);
                let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
                [(0, queries), (queries, keys), (queries + keys, keys)]
                    .map(|(start, width)| all.clone().narrow(2, start, width))
            }
            None => [&self.q_proj, &self.k_proj, &self.v_proj].map(|projection| {
                let projection = projection.as_ref().expect("there are three, or the fused one");
                projection.forward(x.clone())
            }),
        }
    }

    /// Within the limit of queries, keys and values, if there is one.
    fn clipped<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.clip {
            Some(most) => x.clamp(-most, most),
            None => x,
        }
    }

    /// Queries or keys by heads, `[batch, positions, heads, head_dim]`, normed if there is a norm.
    fn normed(
        &self,
        x: Tensor<3>,
        norm: &Option<Norm>,
        of_each: &Option<HeadNorm>,
        heads: usize,
    ) -> Tensor<4> {
        let [batch, positions, _] = x.dims();
        let shape = [batch, positions, heads, self.head_dim];
        match (norm, of_each) {
            (_, Some(of_each)) => of_each.forward(x.reshape(shape)),
            (Some(norm), None) if self.norms_heads => norm.forward(x.reshape(shape)),
            (Some(norm), None) => norm.forward(x).reshape(shape),
            (None, None) => x.reshape(shape),
        }
    }

    /// Its matrices by their paths in a block, and whether each gives the output.
    pub(super) fn matrices(&self) -> Vec<(&'static str, bool)> {
        let inputs = [
            ("self_attn.q_proj", &self.q_proj),
            ("self_attn.k_proj", &self.k_proj),
            ("self_attn.v_proj", &self.v_proj),
            ("self_attn.qkv_proj", &self.qkv_proj),
            ("self_attn.q_a_proj", &self.q_a_proj),
            ("self_attn.q_b_proj", &self.q_b_proj),
            ("self_attn.kv_a_proj_with_mqa", &self.kv_a_proj_with_mqa),
            ("self_attn.kv_b_proj", &self.kv_b_proj),
        ];
        let present = inputs.into_iter().filter(|(_, matrix)| matrix.is_some());
        present.map(|(path, _)| (path, false)).chain([("self_attn.o_proj", true)]).collect()
    }
}
