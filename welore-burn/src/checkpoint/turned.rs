//! The layers of GPT-2, `Conv1D` in transformers: their weights are stored `[in, out]`, the transpose of
//! those of linear layers. They are read as `[out, in]`, and written as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::gathered::{Steps, gathered};
use super::interleaved::Interleaved;
use super::reader::Checkpoint;
use super::remote_code::base_config;

/// What such layers are called. Other models have linear layers of these names.
const MATRICES: [&str; 4] = ["c_attn", "c_fc", "c_proj", "q_attn"];

/// The values of `model_type` of the models that have them.
const MODEL_TYPES: [&str; 3] = ["gpt2", "imagegpt", "openai-gpt"];

/// The stacks of layers whose matrices are stored turned, by what is before the numbers of their layers
/// in names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Turned {
    stacks: BTreeSet<String>,
}

impl Turned {
    /// The stacks that these matrices are in, given the names of their dense weights.
    pub fn of<'a>(weights: impl IntoIterator<Item = &'a str>) -> Self {
        let stacks = weights.into_iter().filter_map(split);
        Self { stacks: stacks.map(|(stack, _)| stack.into()).collect() }
    }

    /// Whether a tensor of this name is stored turned. Only dense weights are.
    pub fn has(&self, tensor: &str) -> bool {
        let of_weight = split(tensor).filter(|(_, part)| *part == WEIGHT);
        of_weight.is_some_and(|(stack, _)| self.stacks.contains(stack))
    }

    /// The same, where names are changed.
    pub fn renamed(self, new_name: impl Fn(&str) -> String) -> Self {
        Self { stacks: self.stacks.iter().map(|stack| new_name(stack)).collect() }
    }
}

/// The part of the name of a dense weight that follows the name of the matrix.
const WEIGHT: &str = ".weight";

/// What is before the number of the layer in the name of a tensor, and what follows the name of its
/// matrix. `None` for a tensor that belongs to no matrix of these names.
fn split(tensor: &str) -> Option<(&str, &str)> {
    let (mut start, mut stack) = (0, None);
    for word in tensor.split('.') {
        let end = start + word.len();
        if MATRICES.contains(&word) {
            return stack.map(|stack| (stack, &tensor[end..]));
        }
        if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()) {
            stack = Some(&tensor[..start]);
        }
        start = end + 1;
    }
    None
}

/// The bytes of the entries of the transpose of a matrix with these rows and columns.
pub(super) fn transposed(bytes: &[u8], [rows, cols]: [usize; 2]) -> Vec<u8> {
    match bytes.len().checked_div(rows * cols) {
        Some(size @ (2 | 4 | 8)) => {
            gathered(bytes, size, Steps { first: 0, down: 1, across: cols }, [cols, rows])
        }
        _ => bytes.to_vec(),
    }
}

impl Checkpoint {
    /// Reads the weights of `Conv1D` as `[out, in]`.
    ///
    /// The length of a bias tells which side of a matrix is the output. Where it tells nothing, since all
    /// matrices with two different sides are factored, the `model_type` in `config.json` does.
    pub(super) fn with_turned_layers(mut self) -> Self {
        let mut stacks: BTreeMap<&str, Option<bool>> = BTreeMap::new();
        for name in self.tensors.keys() {
            let Some((stack, part)) = split(name) else { continue };
            let known = stacks.entry(stack).or_default();
            if part == WEIGHT && *known != Some(false) {
                *known = self.is_turned(name).or(*known);
            }
        }
        let is_unknown = stacks.values().any(Option::is_none);
        let otherwise = is_unknown && is_of_such_a_model(self.dir());
        let stacks = stacks.into_iter().filter(|(_, known)| known.unwrap_or(otherwise));
        self.turned = Turned { stacks: stacks.map(|(stack, _)| stack.into()).collect() };
        let weights = self.tensors.keys().filter(|name| self.turned.has(name));
        for weight in weights.cloned().collect::<Vec<_>>() {
            let Some((shard, meta)) = self.tensors.get_mut(&weight) else { continue };
            let whole = (*shard, meta.clone());
            meta.shape.reverse();
            self.interleaved.insert(weight, Interleaved::Turned(whole));
        }
        self
    }

    /// Whether a dense weight is stored as `[in, out]`, if that can be told. What is not a matrix of
    /// numbers is never turned, and neither is what has scales.
    fn is_turned(&self, weight: &str) -> Option<bool> {
        let (_, meta) = self.tensors.get(weight)?;
        let &[rows, cols] = meta.shape.as_slice() else { return Some(false) };
        if !meta.is_float() || rows.min(cols) == 0 || self.scaled.contains_key(weight) {
            return Some(false);
        }
        let bias = format!("{}.bias", weight.strip_suffix(WEIGHT)?);
        match self.tensors.get(&bias)?.1.shape[..] {
            [outputs] if rows == cols => (outputs != rows).then_some(false),
            [outputs] => Some(outputs == cols),
            _ => None,
        }
    }

    /// Whether a tensor of this name is stored as the transpose of what is read.
    pub(crate) fn turns(&self, tensor: &str) -> bool {
        self.turned.has(tensor)
    }
}

/// Whether the `config.json` of a directory is of a model with such layers, or with such a part.
fn is_of_such_a_model(dir: &Path) -> bool {
    let Ok(Some(bytes)) = base_config(dir) else { return false };
    let config: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let Some(fields) = config.as_object() else { return false };
    let is_one = |part: &Value| {
        let model_type = part.get("model_type").and_then(Value::as_str);
        model_type.is_some_and(|model_type| MODEL_TYPES.contains(&model_type))
    };
    is_one(&config) || fields.values().any(is_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dense_weights_of_these_stacks_are_turned() {
        let turned = Turned::of(["transformer.h.0.attn.c_attn.weight", "wte.weight"]);
        assert!(turned.has("transformer.h.11.mlp.c_proj.weight"));
        for other in [
            "transformer.h.0.attn.c_attn.bias",
            "transformer.h.0.attn.c_attn.V.weight",
            "transformer.h.0.attn.c_attn.weight.q4_k",
            "transformer.h.0.ln_1.weight",
            "visual.resblocks.0.mlp.c_fc.weight",
            "h.0.attn.c_attn.weight",
            "c_attn.weight",
        ] {
            assert!(!turned.has(other), "{other}");
        }
        let renamed = turned.renamed(|name| name.replacen("transformer.", "", 1));
        assert!(renamed.has("h.0.attn.c_attn.weight"));
    }

    #[test]
    fn entries_of_every_size_change_places() {
        let bytes: Vec<u8> = (0..12).collect();
        let two = transposed(&bytes, [2, 3]);
        assert_eq!(two, [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        assert_eq!(transposed(&two, [3, 2]), bytes);
        assert_eq!(transposed(&bytes, [3, 1]), bytes);
        let (rows, cols) = (35, 65);
        let entry = |n: usize| (n as u64).to_le_bytes();
        let many: Vec<u8> = (0..rows * cols).flat_map(entry).collect();
        let want: Vec<u8> =
            (0..cols).flat_map(|c| (0..rows).flat_map(move |r| entry(r * cols + c))).collect();
        assert_eq!(transposed(&many, [rows, cols]), want);
        assert_eq!(transposed(&[], [0, 3]), Vec::<u8>::new());
    }
}
