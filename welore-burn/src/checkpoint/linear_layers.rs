//! Which matrices of a checkpoint are linear layers, by their names and shapes, where no model is
//! known that says it.

use std::collections::BTreeSet;
use std::fmt;

use super::reader::Checkpoint;
use super::stored::StoredMatrix;
use super::tensor_meta::TensorMeta;
use crate::modules::MatrixName;

/// The linear layers of a checkpoint, and what was not taken for one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinearLayers {
    /// Their names, in the model's order. A matrix that is compressed already is one of them.
    pub names: Vec<MatrixName>,
    /// Tensors of two or more dimensions that were left out, by their names without `.weight`.
    pub left_out: Vec<(String, NotLinear)>,
}

/// Why a tensor is not taken for a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum NotLinear {
    /// Its name is that of an embedding: its rows are looked up.
    Embedding,
    /// Its name is that of a head: it turns the last hidden states into an answer.
    Head,
    /// Its name is that of a norm.
    Norm,
    /// Its name is that of the router of experts.
    Router,
    /// It has one row or one column.
    Vector,
    /// It has one input for each output, as depthwise convolutions have.
    Depthwise,
    /// It has more than two dimensions, and was not to be taken as that of a convolution.
    Dimensions,
    /// Its name does not end in `.weight`.
    Unnamed,
    /// It holds no numbers with decimals.
    Integers,
}

impl fmt::Display for NotLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedding => "embedding",
            Self::Head => "head",
            Self::Norm => "norm",
            Self::Router => "router",
            Self::Vector => "one row or column",
            Self::Depthwise => "one input channel",
            Self::Dimensions => "more than two dimensions",
            Self::Unnamed => "no `.weight`",
            Self::Integers => "no numbers with decimals",
        })
    }
}

impl Checkpoint {
    /// The linear layers among the tensors, by names and shapes alone: weights of two dimensions
    /// that are not embeddings, heads, norms or routers, and convolutions that are
    /// [read as matrices](Checkpoint::with_convolutions). `compressed` are the matrices that are not
    /// dense. Reads no weights.
    pub fn linear_layers(&self, compressed: &[StoredMatrix]) -> LinearLayers {
        let parts = compressed.iter().flat_map(StoredMatrix::tensors);
        let parts: BTreeSet<String> = parts.map(|tensor| tensor.name).collect();
        let mut found = LinearLayers::default();
        found.names.extend(compressed.iter().map(|matrix| matrix.name.clone()));
        let tensors = self.names().filter(|tensor| !parts.contains(*tensor));
        for (tensor, meta) in tensors.filter_map(|tensor| Some((tensor, self.meta(tensor)?))) {
            // Vectors are biases and norms, which nobody takes for matrices.
            if meta.shape.len() < 2 {
                continue;
            }
            let name = MatrixName::of_weight(tensor);
            match (self.why_not(tensor, meta), name) {
                (None, Some(name)) => found.names.push(name),
                (why, name) => {
                    let shown = name.as_ref().map_or(tensor, MatrixName::as_str);
                    found.left_out.push((shown.into(), why.unwrap_or(NotLinear::Unnamed)));
                }
            }
        }
        found
    }

    /// Why a tensor of two or more dimensions is no linear layer; `None` if it is one.
    fn why_not(&self, tensor: &str, meta: &TensorMeta) -> Option<NotLinear> {
        if !meta.is_float() {
            return Some(NotLinear::Integers);
        }
        let Some(name) = MatrixName::of_weight(tensor) else { return Some(NotLinear::Unnamed) };
        // Patches of images are embedded by convolutions, and nothing is looked up.
        let is_looked_up = !self.is_convolution(&name);
        let by_name = by_name(&name).filter(|why| is_looked_up || *why != NotLinear::Embedding);
        match meta.shape[..] {
            [rows, cols] if rows.min(cols) > 1 => by_name,
            [_, _] => by_name.or(Some(NotLinear::Vector)),
            [_, 1, ..] => Some(NotLinear::Depthwise),
            _ => Some(NotLinear::Dimensions),
        }
    }
}

/// Names of embeddings that do not say so.
const EMBEDDINGS: [&str; 5] = ["wte", "wpe", "shared", "relative_attention_bias", "tok_emb"];

/// Names of heads, or of what they consist of.
const HEADS: [&str; 8] = [
    "lm_head",
    "classifier",
    "score",
    "embed_out",
    "qa_outputs",
    "predictions",
    "seq_relationship",
    "mlm_head",
];

/// Names of what distributes tokens to experts.
const ROUTERS: [&str; 3] = ["router", "gate", "shared_expert_gate"];

/// Whether a name is that of a norm. Where each head has weights of its own, they are stored as a matrix.
pub(crate) fn is_norm(name: &MatrixName) -> bool {
    by_name(name) == Some(NotLinear::Norm)
}

/// What the words of a name say.
fn by_name(name: &MatrixName) -> Option<NotLinear> {
    let kind = name.kind().to_lowercase();
    let is_embedding = kind.starts_with("embed")
        || ["embed", "embeds", "embedding", "embeddings"].iter().any(|end| kind.ends_with(end))
        || EMBEDDINGS.contains(&kind.as_str());
    let mut words = name.as_str().split('.');
    match () {
        // `embed_out` is the head of GPT-NeoX. The transform in BERT's head is a part of it.
        () if words.any(|word| HEADS.contains(&word)) => Some(NotLinear::Head),
        () if is_embedding => Some(NotLinear::Embedding),
        () if kind.contains("norm") || kind.starts_with("ln_") => Some(NotLinear::Norm),
        () if ROUTERS.contains(&kind.as_str()) => Some(NotLinear::Router),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_linear_layers_from_the_rest() {
        for linear in [
            "bert.encoder.layer.0.attention.self.query",
            "bert.encoder.layer.0.output.dense",
            "bert.pooler.dense",
            "encoder.block.0.layer.0.SelfAttention.q",
            "h.0.attn.c_attn",
            "vit.encoder.layer.3.attention.attention.value",
            "visual_projection",
            "model.layers.0.mlp.gate_proj",
        ] {
            assert_eq!(by_name(&linear.into()), None, "{linear}");
        }
        for (other, why) in [
            ("bert.embeddings.word_embeddings", NotLinear::Embedding),
            ("wte", NotLinear::Embedding),
            ("shared", NotLinear::Embedding),
            ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias", NotLinear::Embedding),
            ("model.decoder.embed_positions", NotLinear::Embedding),
            ("text_model.embeddings.position_embedding", NotLinear::Embedding),
            ("lm_head", NotLinear::Head),
            ("embed_out", NotLinear::Head),
            ("classifier.out_proj", NotLinear::Head),
            ("cls.predictions.transform.dense", NotLinear::Head),
            ("score", NotLinear::Head),
            ("encoder.layer_norm", NotLinear::Norm),
            ("model.layers.0.mlp.gate", NotLinear::Router),
        ] {
            assert_eq!(by_name(&other.into()), Some(why), "{other}");
        }
    }
}
