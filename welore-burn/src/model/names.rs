//! Names of tensors where a family has others than LLaMA. They are data, which the file of the family
//! hands over.

use std::fmt;

use burn::module::{Flag, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::families::all_names;
use crate::modules::TURNED_LINEAR;

/// How files name the parts of a decoder.
#[derive(Clone, Copy)]
pub struct Names {
    /// What stored configurations call it; no two are the same.
    pub(super) id: &'static str,
    /// Fields of a [`Decoder`](super::Decoder), and what files call them. Others have their own names, and
    /// a field with an empty one is left out of paths.
    pub(super) fields: &'static [(&'static str, &'static str)],
    /// How the name of a tensor ends that no other family has, where the body has another name than
    /// in most families.
    pub(super) told_by: Option<&'static str>,
    /// Whether files have the weights of layers as `[in, out]`, which others have as `[out, in]`.
    pub(super) turned: bool,
    /// Whether files may have more layers than the stack, which are no part of it.
    pub(super) has_further_layers: bool,
    /// Whether files that have the matrices of all experts in one tensor name tensors as the fields are
    /// called.
    pub(super) stacks_as_fields: bool,
}

/// The embedding, as a path of fields.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";

/// The head, where it is not the embedding.
pub(super) const HEAD: &str = "lm_head.weight";

/// What is before the numbers of layers.
pub(super) const LAYERS: &str = "model.layers.";

impl Names {
    /// As the fields of [`Decoder`](super::Decoder) are called, which is what most families have.
    pub const LLAMA: Self = Self {
        id: "Llama",
        fields: &[],
        told_by: None,
        turned: false,
        has_further_layers: false,
        stacks_as_fields: false,
    };

    /// Whether a tensor is in the body of a decoder, by what its name begins with in any family.
    pub(super) fn is_in_body(tensor: &str) -> bool {
        all_names().any(|names| is_below(tensor, names.of("model")))
    }

    /// Whether a tensor is the head of a decoder, or a part of it, by its name in any family.
    pub(super) fn is_in_head(tensor: &str) -> bool {
        all_names().any(|names| is_below(tensor, names.of("lm_head")))
    }

    /// The name of a field; empty if it has none.
    pub(super) fn of(self, field: &str) -> &str {
        let name = self.fields.iter().find(|(own, _)| *own == field);
        name.map_or(field, |(_, name)| *name)
    }

    /// The name of what is at a path of fields, such as `model.layers.0.mlp`.
    pub(crate) fn of_path(self, path: &str) -> String {
        // What is empty in the path itself stays, so that it may end in a dot.
        let fields = path.split('.').map(|field| (field, self.of(field)));
        let named = fields.filter(|(field, name)| field.is_empty() || !name.is_empty());
        named.map(|(_, name)| name).collect::<Vec<_>>().join(".")
    }

    /// Whether files have the weights of layers as `[in, out]`, which others have as `[out, in]`.
    pub(crate) fn turns_layers(self) -> bool {
        self.turned
    }

    /// What the container of a parameter of the body is called to visitors.
    fn container(self, container: &str) -> &str {
        match container {
            "Struct:LowRankLinear" if self.turned => TURNED_LINEAR,
            other => other,
        }
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::LLAMA
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Names {}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id)
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        let found = all_names().find(|names| names.id == id);
        found.ok_or_else(|| de::Error::custom(format!("no family has the names `{id}`")))
    }
}

/// Whether a name is that of something in a module.
pub(super) fn is_below(name: &str, module: &str) -> bool {
    name.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
}

/// Whether a matrix is the output projection of attention, by its name in any family.
pub(crate) fn is_attention_output(matrix: &str) -> bool {
    all_names().any(|names| matrix.ends_with(&names.of_path("self_attn.o_proj")))
}

/// A matrix that has a row for each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenMatrix {
    /// The embedding, which is the head as well if there is no other.
    Embedding,
    /// The head.
    Head,
}

impl TokenMatrix {
    /// Which one a tensor is, by its name in any family.
    pub fn of(tensor: &str) -> Option<Self> {
        let is = |path: &str| all_names().any(|names| names.of_path(path) == tensor);
        match (is(EMBEDDING), is(HEAD)) {
            (true, _) => Some(Self::Embedding),
            (_, true) => Some(Self::Head),
            _ => None,
        }
    }
}

/// A visitor or a mapper of the body of a decoder, to which fields have the names of files.
pub(super) struct Named<'a, V> {
    pub names: Names,
    pub inner: &'a mut V,
}

impl<V: ModuleVisitor> ModuleVisitor for Named<'_, V> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.inner.visit_float(param);
    }

    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.inner.visit_int(param);
    }

    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.inner.visit_bool(param);
    }

    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.inner.visit_flag(flag);
    }

    fn enter_module(&mut self, name: &str, container_type: &str) {
        let name = self.names.of(name);
        if !name.is_empty() {
            self.inner.enter_module(name, self.names.container(container_type));
        }
    }

    fn exit_module(&mut self, name: &str, container_type: &str) {
        let name = self.names.of(name);
        if !name.is_empty() {
            self.inner.exit_module(name, self.names.container(container_type));
        }
    }
}

impl<M: ModuleMapper> ModuleMapper for Named<'_, M> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        let name = self.names.of(name);
        if !name.is_empty() {
            self.inner.enter_module(name, self.names.container(container_type));
        }
    }

    fn exit_module(&mut self, name: &str, container_type: &str) {
        let name = self.names.of(name);
        if !name.is_empty() {
            self.inner.exit_module(name, self.names.container(container_type));
        }
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.inner.map_float(param)
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.inner.map_int(param)
    }

    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        self.inner.map_bool(param)
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.inner.map_flag(flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_configurations_find_the_names_again() {
        let text = |names: &Names| serde_json::to_string(names).unwrap();
        for names in all_names() {
            let back: Names = serde_json::from_str(&text(&names)).unwrap();
            assert_eq!((back, back.fields), (names, names.fields));
        }
        assert_eq!(text(&Names::LLAMA), "\"Llama\"");
        assert!(serde_json::from_str::<Names>("\"Other\"").is_err());
    }

    /// What a checkpoint is of is told by its tensors alone.
    #[test]
    fn bodies_of_other_names_are_told_by_a_tensor() {
        for names in all_names() {
            let is_usual = names.of("model") == Names::LLAMA.of("model");
            assert_eq!(names.told_by.is_none(), is_usual, "{names:?}");
        }
    }

    #[test]
    fn fields_without_a_name_are_left_out_of_paths() {
        let names = Names { fields: &[("mlp", ""), ("up_proj", "fc1")], ..Names::LLAMA };
        assert_eq!(names.of_path("model.layers.0.mlp.up_proj"), "model.layers.0.fc1");
        assert_eq!(names.of_path("model.layers."), "model.layers.");
    }

    #[test]
    fn outputs_of_attention_are_told_in_every_family() {
        for matrix in [
            "model.layers.0.self_attn.o_proj",
            "gpt_neox.layers.1.attention.dense",
            "transformer.h.0.self_attention.dense",
            "transformer.h.0.attn.c_proj",
        ] {
            assert!(is_attention_output(matrix), "{matrix}");
        }
        for matrix in ["transformer.h.0.mlp.c_proj", "model.layers.0.self_attn.q_proj"] {
            assert!(!is_attention_output(matrix), "{matrix}");
        }
    }

    #[test]
    fn embedding_head_and_body_are_told_in_every_family() {
        for (tensor, matrix, in_body) in [
            ("model.embed_tokens.weight", Some(TokenMatrix::Embedding), true),
            ("gpt_neox.embed_in.weight", Some(TokenMatrix::Embedding), true),
            ("lm_head.weight", Some(TokenMatrix::Head), false),
            ("embed_out.weight", Some(TokenMatrix::Head), false),
            ("transformer.wte.weight", Some(TokenMatrix::Embedding), true),
            ("transformer.wpe.weight", None, true),
            ("transformer.word_embeddings.weight", Some(TokenMatrix::Embedding), true),
            ("model.layers.0.mlp.up_proj.weight", None, true),
            ("modelled.weight", None, false),
            ("score.weight", None, false),
        ] {
            assert_eq!(TokenMatrix::of(tensor), matrix, "{tensor}");
            assert_eq!(Names::is_in_body(tensor), in_body, "{tensor}");
        }
    }
}
