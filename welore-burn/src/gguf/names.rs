//! Which tensors a model has, their names in both formats, and where their rows are.

use std::borrow::Cow;
use std::collections::BTreeSet;

use safetensors::Dtype;

use super::GgufConversion;
use super::architecture::Architecture;
use super::config::ModelConfig;
use super::error::GgufError;
use super::keys;
use super::rope;
use super::tensors::stored_dtype;
use crate::forms::{Form, TensorSpec};
use crate::ggml::{GgufFile, TensorType};
use crate::model::DecoderConfig;
use crate::modules::MatrixName;

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
}

impl Entry {
    /// Whether it is a vector: a norm or a bias.
    pub fn is_vector(&self) -> bool {
        self.shape.len() == 1
    }

    /// Whether it has a row for each token: the embedding or the head.
    pub fn is_of_tokens(&self) -> bool {
        !self.is_vector() && !self.gguf.starts_with("blk.")
    }
}

/// How llama.cpp orders the rows of a tensor: as Hugging Face does, or, with a number of heads, so
/// that the two channels that are rotated together are neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowOrder(Option<usize>);

impl RowOrder {
    /// Number of entries that stay together: those of a row, or one if a vector is reordered.
    pub fn columns(self, shape: &[usize]) -> usize {
        match (shape, self.0) {
            ([_], Some(_)) => 1,
            (shape, _) => shape.last().copied().unwrap_or(1),
        }
    }

    /// Where a row of the model directory is in the file.
    ///
    /// Within a head, llama.cpp rotates neighbouring channels and Hugging Face the first half
    /// against the second, so the file has the channels `0, d/2, 1, d/2 + 1, ...`.
    pub fn file_row(self, row: usize, rows: usize) -> usize {
        let Some(heads) = self.0 else { return row };
        let width = rows / heads;
        let (head, channel) = (row / width, row % width);
        let (half, pair) = (channel / (width / 2), channel % (width / 2));
        head * width + 2 * pair + half
    }

    /// The bytes of a tensor as the file has them. Rows stay whole, so they may be of any type.
    pub fn to_file<'a>(self, data: Cow<'a, [u8]>, shape: &[usize]) -> Cow<'a, [u8]> {
        if self.0.is_none() {
            return data;
        }
        let rows = shape.iter().product::<usize>() / self.columns(shape);
        let stride = data.len() / rows;
        let mut ordered = vec![0; data.len()];
        for (row, bytes) in data.chunks_exact(stride).enumerate() {
            let start = self.file_row(row, rows) * stride;
            ordered[start..start + stride].copy_from_slice(bytes);
        }
        Cow::Owned(ordered)
    }
}

/// A tensor of the model directory, and the tensor of the file that it is made from.
#[derive(Debug)]
pub(super) struct Planned {
    /// Its name in the file.
    pub source: String,
    /// What is written.
    pub spec: TensorSpec,
    /// How the file orders its rows.
    pub order: RowOrder,
    /// The type of its blocks, if it stays in them.
    pub packed: Option<TensorType>,
}

/// All tensors of the model, in its order.
///
/// # Errors
///
/// [`GgufError::TensorType`], [`GgufError::Metadata`] for more layers than tensors, and
/// [`GgufError::Tensor`] for a tensor that is missing, that the model does not have, or whose shape
/// is not the one that the metadata gives.
pub(super) fn plan(
    file: &GgufFile,
    model: &ModelConfig,
    conversion: GgufConversion,
) -> Result<Vec<Planned>, GgufError> {
    // A hostile count must not make us list a billion layers before a tensor is found missing.
    let (layers, tensors) = (model.config.num_hidden_layers, file.tensors().len());
    if layers > tensors {
        let key = model.architecture.key(keys::LAYERS);
        return Err(
            file.wrong(&key, format!("is {layers}, but the number of tensors is {tensors}"))
        );
    }
    let planned = entries(&model.config, model.architecture)
        .into_iter()
        .map(|entry| check(entry, file, conversion))
        .collect::<Result<Vec<_>, _>>()?;
    let known: BTreeSet<&str> = planned.iter().map(|tensor| tensor.source.as_str()).collect();
    let mut names = file.tensors().keys();
    match names
        .find(|name| !rope::TENSORS.contains(&name.as_str()) && !known.contains(name.as_str()))
    {
        Some(name) => Err(file.wrong_tensor(name, "does not belong to this architecture".into())),
        None => Ok(planned),
    }
}

/// The tensor of the file for an entry, if it is the expected one.
fn check(entry: Entry, file: &GgufFile, conversion: GgufConversion) -> Result<Planned, GgufError> {
    let Entry { gguf: source, name, shape, order } = entry;
    let wrong = |reason: String| file.wrong_tensor(&source, reason);
    let Some(info) = file.tensors().get(&source) else {
        return Err(wrong("is missing".into()));
    };
    let Some(dtype) = stored_dtype(info.dtype) else {
        let (path, dtype) = (file.path().into(), info.dtype.to_string());
        return Err(GgufError::TensorType { path, tensor: source, dtype });
    };
    // The file has the fastest-varying dimension first.
    let found: Vec<usize> = info.shape.iter().rev().copied().collect();
    if found != shape {
        return Err(wrong(format!("has shape {found:?}, not {shape:?}")));
    }
    let (columns, block) = (order.columns(&shape), info.dtype.block_size());
    if !columns.is_multiple_of(block) {
        let reason = format!("has rows of length {columns}, which do not fill blocks of {block}");
        return Err(wrong(reason));
    }
    let kept = TensorType::of(info.dtype).filter(|_| conversion.packed);
    let in_blocks = kept.and_then(|kept| Some((kept, as_blocks(kept, &name, &shape)?)));
    Ok(match in_blocks {
        Some((kept, spec)) => Planned { source, spec, order, packed: Some(kept) },
        None => Planned { source, spec: TensorSpec { name, dtype, shape }, order, packed: None },
    })
}

/// The tensor of a matrix that stays in its blocks. `None` for what does not.
fn as_blocks(kept: TensorType, name: &str, shape: &[usize]) -> Option<TensorSpec> {
    let (form, shape) = (Form::blocks(kept), shape.try_into().ok()?);
    let matrix = MatrixName::of_weight(name)?;
    match form.problem(shape) {
        Some(_) => None,
        None => form.tensors(&matrix, shape, Dtype::F32).pop(),
    }
}

/// The tensors of a model of an architecture, in its order, without the divisors of rotary
/// frequencies, which are no parameters.
pub(super) fn entries(config: &DecoderConfig, architecture: Architecture) -> Vec<Entry> {
    let hidden = config.hidden_size;
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    let (q, kv) = (heads * config.head_dim, kv_heads * config.head_dim);
    let rotated = |heads| architecture.is_interleaved().then_some(heads);
    let mut list = List::default();
    list.add("token_embd.weight", "model.embed_tokens.weight", &[config.vocab_size, hidden], None);
    for layer in 0..config.num_hidden_layers {
        let norms = [("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm")];
        for (gguf, name) in norms {
            list.add_of(layer, gguf, name, "weight", &[hidden], None);
        }
        let mlp = config.mlp_width(layer);
        let matrices = [
            ("attn_q", "self_attn.q_proj", [q, hidden], config.qkv_bias, rotated(heads)),
            ("attn_k", "self_attn.k_proj", [kv, hidden], config.qkv_bias, rotated(kv_heads)),
            ("attn_v", "self_attn.v_proj", [kv, hidden], config.qkv_bias, None),
            ("attn_output", "self_attn.o_proj", [hidden, q], config.output_bias, None),
            ("ffn_gate", "mlp.gate_proj", [mlp, hidden], config.mlp_bias, None),
            ("ffn_up", "mlp.up_proj", [mlp, hidden], config.mlp_bias, None),
            ("ffn_down", "mlp.down_proj", [hidden, mlp], config.mlp_bias, None),
        ];
        for (gguf, name, shape, bias, heads) in matrices {
            list.add_of(layer, gguf, name, "weight", &shape, heads);
            if bias {
                list.add_of(layer, gguf, name, "bias", &shape[..1], heads);
            }
        }
    }
    list.add("output_norm.weight", "model.norm.weight", &[hidden], None);
    if !config.tie_word_embeddings {
        list.add("output.weight", "lm_head.weight", &[config.vocab_size, hidden], None);
    }
    list.0
}

#[derive(Default)]
struct List(Vec<Entry>);

impl List {
    fn add(&mut self, gguf: &str, name: &str, shape: &[usize], heads: Option<usize>) {
        let (gguf, name, shape) = (gguf.into(), name.into(), shape.to_vec());
        self.0.push(Entry { gguf, name, shape, order: RowOrder(heads) });
    }

    /// Adds a tensor of a layer.
    fn add_of(
        &mut self,
        layer: usize,
        gguf: &str,
        name: &str,
        kind: &str,
        shape: &[usize],
        heads: Option<usize>,
    ) {
        let gguf = format!("blk.{layer}.{gguf}.{kind}");
        let name = format!("model.layers.{layer}.{name}.{kind}");
        self.add(&gguf, &name, shape, heads);
    }
}
