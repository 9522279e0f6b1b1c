//! Which tensors a model has, and their names in both formats.

use super::architectures::Known;
use super::row_order::RowOrder;
use crate::ggml::is_router;
use crate::model::{
    DecoderConfig, LatentConfig, MixtureConfig, MlpLayout, NormKind, QkNorm, QkvLayout,
};

/// A tensor of a model, in both formats.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Its name in GGUF files.
    pub gguf: String,
    /// Its name in model directories.
    pub name: String,
    /// Row-major, as in a model directory.
    pub shape: Vec<usize>,
    /// How llama.cpp orders its rows.
    pub order: RowOrder,
    /// What llama.cpp's entries have more than those of the model directory.
    pub shift: f32,
    /// Which part of the file's tensor it is, if that is of all experts or heads of a layer.
    pub part: Option<Part>,
}

/// What is of one expert in a tensor that has the same of all experts of a layer, one after the other, or
/// of one head in a norm of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// The number of the expert or the head.
    pub number: usize,
    /// The number of experts or heads.
    pub of: usize,
}

impl Part {
    /// The shape of the file's tensor, row-major.
    pub fn whole(part: Option<Self>, shape: &[usize]) -> Vec<usize> {
        part.map(|part| part.of).into_iter().chain(shape.iter().copied()).collect()
    }

    /// Whether it is all of the file's tensor, or the first part of it.
    pub fn is_first(part: Option<Self>) -> bool {
        part.is_none_or(|part| part.number == 0)
    }

    /// The part of the bytes of the file's tensor.
    pub fn of(part: Option<Self>, bytes: &[u8]) -> &[u8] {
        let Some(Self { number, of }) = part else { return bytes };
        let size = bytes.len() / of;
        &bytes[number * size..][..size]
    }
}

impl Entry {
    /// Whether it is a vector: a norm or a bias.
    pub fn is_vector(&self) -> bool {
        self.shape.len() == 1
    }

    /// Whether it chooses between experts or weighs the shared one.
    pub fn is_router(&self) -> bool {
        is_router(&self.gguf)
    }

    /// Whether it belongs to a norm.
    pub fn is_norm(&self) -> bool {
        self.gguf.ends_with(NORM)
    }

    /// Whether llama.cpp wants it in F32.
    pub fn is_f32(&self) -> bool {
        self.is_vector() || self.is_norm() || self.is_router() || self.gguf == POSITIONS
    }

    /// Whether it has a row for each token: the embedding or the head.
    pub fn is_of_tokens(&self) -> bool {
        !self.is_f32() && !self.gguf.starts_with("blk.")
    }
}

/// How the names of weights of norms end in files. Where each head has its own, they are no vector.
const NORM: &str = "_norm.weight";

/// The table of learned positions in files.
const POSITIONS: &str = "position_embd.weight";

/// The tensors of a model of an architecture, in its order, without the divisors of rotary
/// frequencies, which are no parameters.
pub(super) fn entries(config: &DecoderConfig, architecture: Known) -> Vec<Entry> {
    let mut list = List { config, entries: Vec::new() };
    let hidden = config.hidden_size;
    let table = [config.vocab_size, hidden];
    list.add("token_embd", "model.embed_tokens", "weight", &table, RowOrder::Same);
    if config.learned_positions {
        let table = [config.max_position_embeddings, hidden];
        list.add("position_embd", "model.embed_positions", "weight", &table, RowOrder::Same);
    }
    for layer in 0..config.num_hidden_layers {
        list.add_layer(layer, architecture);
    }
    list.add_norm("output_norm", "model.norm", hidden);
    if !config.tie_word_embeddings {
        list.add("output", "lm_head", "weight", &table, RowOrder::Same);
    }
    list.entries
}

/// A matrix by its name in a layer of a file and in one of a model directory, its shape, whether it has
/// a bias, and how its rows are ordered.
type Matrix = (&'static str, &'static str, [usize; 2], bool, RowOrder);

/// The matrices of attention.
fn attention(config: &DecoderConfig, architecture: Known) -> Vec<Matrix> {
    let hidden = config.hidden_size;
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let (q, kv) = (heads * config.head_dim, kv_heads * config.head_dim);
    let reorders = architecture.rotates_neighbours() && !config.rotary_neighbours;
    let of_heads = |heads: usize| match reorders {
        true => RowOrder::Neighbours(heads),
        false => RowOrder::Same,
    };
    if let Some(latent) = config.latent {
        return latent_attention(config, latent);
    }
    let (bias, all, fused) = (config.qkv_bias, q + 2 * kv, "self_attn.qkv_proj");
    let mut matrices: Vec<Matrix> = match config.qkv {
        QkvLayout::Separate => vec![
            ("attn_q", "self_attn.q_proj", [q, hidden], bias, of_heads(heads)),
            ("attn_k", "self_attn.k_proj", [kv, hidden], bias, of_heads(kv_heads)),
            ("attn_v", "self_attn.v_proj", [kv, hidden], bias, RowOrder::Same),
        ],
        QkvLayout::Fused => vec![("attn_qkv", fused, [all, hidden], bias, RowOrder::Same)],
        QkvLayout::FusedByHead => {
            vec![("attn_qkv", fused, [all, hidden], bias, RowOrder::ByKind { heads, kv_heads })]
        }
    };
    let bias = config.output_bias;
    matrices.push(("attn_output", "self_attn.o_proj", [hidden, q], bias, RowOrder::Same));
    matrices
}

/// The matrices of latent attention.
fn latent_attention(config: &DecoderConfig, latent: LatentConfig) -> Vec<Matrix> {
    let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
    let LatentConfig { queries_from, keys_from, plain, rotated, values } = latent;
    let matrix = |gguf: &'static str, name: &'static str, shape: [usize; 2]| -> Matrix {
        (gguf, name, shape, false, RowOrder::Same)
    };
    let queries = heads * (plain + rotated);
    let mut matrices = match queries_from {
        Some(short) => vec![
            matrix("attn_q_a", "self_attn.q_a_proj", [short, hidden]),
            matrix("attn_q_b", "self_attn.q_b_proj", [queries, short]),
        ],
        None => vec![matrix("attn_q", "self_attn.q_proj", [queries, hidden])],
    };
    let (both, all) = (keys_from + rotated, heads * (plain + values));
    matrices.extend([
        matrix("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa", [both, hidden]),
        matrix("attn_kv_b", "self_attn.kv_b_proj", [all, keys_from]),
        matrix("attn_output", "self_attn.o_proj", [hidden, heads * values]),
    ]);
    matrices
}

/// The matrices of an MLP.
fn mlp(config: &DecoderConfig, layer: usize) -> Vec<Matrix> {
    let (hidden, width) = (config.hidden_size, config.mlp_width(layer));
    let matrix = |gguf: &'static str, name: &'static str, shape: [usize; 2]| -> Matrix {
        (gguf, name, shape, config.mlp_bias, RowOrder::Same)
    };
    let up = |name: &'static str| matrix("ffn_up", name, [width, hidden]);
    let down = |name: &'static str| matrix("ffn_down", name, [hidden, width]);
    match config.mlp {
        MlpLayout::Gated => vec![
            matrix("ffn_gate", "mlp.gate_proj", [width, hidden]),
            up("mlp.up_proj"),
            down("mlp.down_proj"),
        ],
        // Both have the gate in the first rows.
        MlpLayout::FusedGated => {
            vec![matrix("ffn_up", "mlp.gate_up_proj", [2 * width, hidden]), down("mlp.down_proj")]
        }
        MlpLayout::Plain => vec![up("mlp.up_proj"), down("mlp.down_proj")],
    }
}

/// The tensors of a model, one after the other.
struct List<'a> {
    config: &'a DecoderConfig,
    entries: Vec<Entry>,
}

impl List<'_> {
    fn add_layer(&mut self, layer: usize, architecture: Known) {
        let config = self.config;
        let gguf = |name: &str| format!("blk.{layer}.{name}");
        let own = |name: &str| format!("model.layers.{layer}.{name}");
        let norms = architecture.norms(config.layout).into_iter();
        for (norm, name) in norms.zip(config.layout.norms()) {
            if let Some(name) = name {
                self.add_norm(&gguf(norm), &own(name), config.hidden_size);
            }
        }
        for (kind, heads) in [("q", config.num_attention_heads), ("k", config.num_key_value_heads)]
        {
            let (norm, field) = (gguf(&format!("attn_{kind}_norm")), format!("self_attn.{kind}_"));
            self.add_norm_of_heads(&norm, &own(&field), heads);
        }
        if let Some(latent) = config.latent {
            if let Some(short) = latent.queries_from {
                self.add_norm(&gguf("attn_q_a_norm"), &own("self_attn.q_a_layernorm"), short);
            }
            let keys = latent.keys_from;
            self.add_norm(&gguf("attn_kv_a_norm"), &own("self_attn.kv_a_layernorm"), keys);
        }
        if config.attention_sinks {
            let heads = config.num_attention_heads;
            self.add_vector(gguf("attn_sinks.weight"), &own("self_attn.sinks"), heads);
        }
        let mixture = config.mixture_of(layer);
        let mlp = if mixture.is_some() { Vec::new() } else { mlp(config, layer) };
        for (tensor, name, shape, bias, order) in
            attention(config, architecture).into_iter().chain(mlp)
        {
            self.add(&gguf(tensor), &own(name), "weight", &shape, order);
            if bias {
                self.add(&gguf(tensor), &own(name), "bias", &shape[..1], order);
            }
        }
        if let Some(mixture) = mixture {
            self.add_experts(layer, mixture);
        }
    }

    /// Adds experts and what chooses between them.
    fn add_experts(&mut self, layer: usize, mixture: &MixtureConfig) {
        let gguf = |name: &str| format!("blk.{layer}.{name}");
        let own = |name: &str| format!("model.layers.{layer}.mlp.{name}");
        let (hidden, width, of) = (self.config.hidden_size, mixture.width, mixture.experts);
        let same = RowOrder::Same;
        self.add(&gguf("ffn_gate_inp"), &own("gate"), "weight", &[of, hidden], same);
        if mixture.biases {
            self.add(&gguf("ffn_gate_inp"), &own("gate"), "bias", &[of], same);
        }
        if mixture.is_corrected {
            let name = own("gate.e_score_correction_bias");
            self.add_vector(gguf("exp_probs_b.bias"), &name, of);
        }
        let of_expert = |width: usize| {
            [
                ("gate", "gate_proj", [width, hidden]),
                ("up", "up_proj", [width, hidden]),
                ("down", "down_proj", [hidden, width]),
            ]
        };
        for (kind, name, shape) in of_expert(width) {
            let tensor = gguf(&format!("ffn_{kind}_exps"));
            let biases = mixture.biases.then_some(("bias", &shape[..1]));
            for (content, shape) in [("weight", &shape[..])].into_iter().chain(biases) {
                for number in 0..of {
                    let name = own(&format!("experts.{number}.{name}"));
                    self.add_part(&tensor, &name, content, shape, Part { number, of });
                }
            }
        }
        let Some(width) = mixture.shared_width else { return };
        for (kind, name, shape) in of_expert(width) {
            let (tensor, name) = (format!("ffn_{kind}_shexp"), format!("shared_expert.{name}"));
            self.add(&gguf(&tensor), &own(&name), "weight", &shape, same);
        }
        if mixture.has_shared_gate {
            let (tensor, name) = (gguf("ffn_gate_inp_shexp"), own("shared_expert_gate"));
            self.add(&tensor, &name, "weight", &[1, hidden], same);
        }
    }

    /// Adds the norm of queries or keys, if there is one. `name` is that of its field up to `norm`.
    fn add_norm_of_heads(&mut self, gguf: &str, name: &str, heads: usize) {
        let width = self.config.head_dim;
        let (norm, of_each) = (format!("{name}norm"), format!("{name}head_norm"));
        match self.config.qk_norm {
            QkNorm::None => {}
            QkNorm::Head => self.add_norm(gguf, &norm, width),
            QkNorm::Whole => self.add_norm(gguf, &norm, heads * width),
            QkNorm::EachHead => self.add(gguf, &of_each, "weight", &[heads, width], RowOrder::Same),
            QkNorm::EachHeadApart => {
                for number in 0..heads {
                    let name = format!("{of_each}.norms.{number}");
                    self.add_part(gguf, &name, "weight", &[width], Part { number, of: heads });
                }
            }
        }
    }

    /// Adds what a norm learns.
    fn add_norm(&mut self, gguf: &str, name: &str, width: usize) {
        let kinds: &[&str] = match self.config.norm {
            NormKind::LayerAlone => &[],
            NormKind::LayerWithBias => &["weight", "bias"],
            _ => &["weight"],
        };
        for kind in kinds {
            self.add(gguf, name, kind, &[width], RowOrder::Same);
        }
        if let (NormKind::RmsFromOne, Some(weight)) = (self.config.norm, self.entries.last_mut()) {
            weight.shift = 1.0;
        }
    }

    /// Adds a vector whose name in a model directory has another end than in a file.
    fn add_vector(&mut self, gguf: String, name: &str, len: usize) {
        let (name, shape) = (self.config.names.of_path(name), vec![len]);
        let order = RowOrder::Same;
        self.entries.push(Entry { gguf, name, shape, order, shift: 0.0, part: None });
    }

    /// Adds what is a part of a tensor of the file.
    fn add_part(&mut self, gguf: &str, name: &str, kind: &str, shape: &[usize], part: Part) {
        self.add(gguf, name, kind, shape, RowOrder::Same);
        if let Some(entry) = self.entries.last_mut() {
            entry.part = Some(part);
        }
    }

    fn add(&mut self, gguf: &str, name: &str, kind: &str, shape: &[usize], order: RowOrder) {
        let name = format!("{}.{kind}", self.config.names.of_path(name));
        let gguf = format!("{gguf}.{kind}");
        let (shape, part) = (shape.to_vec(), None);
        self.entries.push(Entry { gguf, name, shape, order, shift: 0.0, part });
    }
}
