//! A plan of types in the words of llama.cpp's `llama-quantize`.

use std::collections::{BTreeMap, BTreeSet};

use super::budget::weights_of;
use super::type_plan::TypePlan;
use crate::ggml::{TensorType, tensor_of_matrix};
use crate::model::TokenMatrix;
use crate::modules::MatrixName;

/// The options of `llama-quantize` that give every matrix the type of a plan.
///
/// It chooses the entries of the blocks itself, as it always does, so its file is as large as the
/// plan says, and loses more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlamaQuantize {
    /// The lines of a `--tensor-type-file`, one for each projection, or for those of all experts of a
    /// layer: a regular expression that matches this tensor alone, and its type.
    pub lines: Vec<String>,
    /// For `--token-embedding-type`.
    pub embedding: Option<TensorType>,
    /// For `--output-tensor-type`; none if the head is the embedding.
    pub head: Option<TensorType>,
    /// The name of the type that most weights have, which is its last argument. It is one of blocks:
    /// with a type of floats, no lines are read.
    pub base: String,
}

impl TypePlan {
    /// The plan for `llama-quantize`.
    pub fn for_llama_quantize(&self) -> LlamaQuantize {
        let type_of = |matrix: TokenMatrix| {
            let mut all = self.matrices.iter();
            let found = all.find(|choice| TokenMatrix::of(&choice.tensor) == Some(matrix));
            found.map(|choice| choice.tensor_type)
        };
        let mut weights: BTreeMap<TensorType, f64> = BTreeMap::new();
        for matrix in self.matrices.iter().filter(|matrix| !matrix.tensor_type.is_float()) {
            *weights.entry(matrix.tensor_type).or_insert(0.0) += weights_of(matrix.shape) as f64;
        }
        let most = weights.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let base = most.map_or(TensorType::Q8_0, |(tensor_type, _)| tensor_type);
        let line = |tensor: &str, tensor_type: TensorType| {
            let name = tensor_of_matrix(MatrixName::of_weight(tensor)?.as_str())?;
            // Searched for in the names of all tensors, so `blk.1` must not be found in `blk.11`.
            Some(format!("^{}$={}", name.replace('.', r"\."), tensor_type.ggml_name()))
        };
        let lines = self.matrices.iter().filter_map(|m| line(&m.tensor, m.tensor_type));
        // Experts share a tensor.
        let mut seen = BTreeSet::new();
        let lines = lines.filter(|line| seen.insert(line.clone())).collect();
        let (embedding, head) = (type_of(TokenMatrix::Embedding), type_of(TokenMatrix::Head));
        LlamaQuantize { lines, embedding, head, base: base.ggml_name().to_uppercase() }
    }
}

impl LlamaQuantize {
    /// The text of a `--tensor-type-file`.
    pub fn file(&self) -> String {
        self.lines.join("\n")
    }
}
