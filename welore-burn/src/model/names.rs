//! Names of tensors where a family has others than LLaMA.

use burn::module::{Flag, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::modules::TURNED_LINEAR;

/// How files name the parts of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Names {
    /// As the fields of [`Decoder`](super::Decoder) are called, which is what most families have.
    #[default]
    Llama,
    /// GPT-NeoX.
    GptNeox,
    /// Mixtral.
    Mixtral,
    /// gpt-oss.
    GptOss,
    /// DeepSeek.
    DeepSeek,
    /// GPT-2.
    Gpt2,
    /// Falcon.
    Falcon,
}

/// The embedding, as a path of fields.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";

/// The head, where it is not the embedding.
pub(super) const HEAD: &str = "lm_head.weight";

/// What is before the numbers of layers.
pub(super) const LAYERS: &str = "model.layers.";

/// Fields, and what they are called in GPT-NeoX.
const GPT_NEOX: [(&str, &str); 9] = [
    ("model", "gpt_neox"),
    ("embed_tokens", "embed_in"),
    ("norm", "final_layer_norm"),
    ("self_attn", "attention"),
    ("qkv_proj", "query_key_value"),
    ("o_proj", "dense"),
    ("up_proj", "dense_h_to_4h"),
    ("down_proj", "dense_4h_to_h"),
    ("lm_head", "embed_out"),
];

/// Fields, and what they are called in Mixtral.
const MIXTRAL: [(&str, &str); 4] =
    [("mlp", "block_sparse_moe"), ("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")];

/// Fields, and what they are called in gpt-oss.
const GPT_OSS: [(&str, &str); 1] = [("gate", "router")];

/// Fields, and what they are called in DeepSeek.
const DEEP_SEEK: [(&str, &str); 1] = [("shared_expert", "shared_experts")];

/// Fields, and what they are called in GPT-2.
const GPT2: [(&str, &str); 10] = [
    ("model", "transformer"),
    ("embed_tokens", "wte"),
    ("embed_positions", "wpe"),
    ("layers", "h"),
    ("input_layernorm", "ln_1"),
    ("self_attn", "attn"),
    ("qkv_proj", "c_attn"),
    ("o_proj", "c_proj"),
    ("post_attention_layernorm", "ln_2"),
    ("norm", "ln_f"),
];

/// Fields, and what they are called in Falcon.
const FALCON: [(&str, &str); 9] = [
    ("model", "transformer"),
    ("embed_tokens", "word_embeddings"),
    ("layers", "h"),
    ("self_attn", "self_attention"),
    ("qkv_proj", "query_key_value"),
    ("o_proj", "dense"),
    ("up_proj", "dense_h_to_4h"),
    ("down_proj", "dense_4h_to_h"),
    ("norm", "ln_f"),
];

impl Names {
    /// All of them.
    const ALL: [Self; 7] = [
        Self::Llama,
        Self::GptNeox,
        Self::Mixtral,
        Self::GptOss,
        Self::DeepSeek,
        Self::Gpt2,
        Self::Falcon,
    ];

    /// Whether a tensor is in the body of a decoder, by what its name begins with in any family.
    pub(super) fn is_in_body(tensor: &str) -> bool {
        let inner = |names: Self| tensor.strip_prefix(names.of("model"));
        Self::ALL.into_iter().filter_map(inner).any(|rest| rest.starts_with('.'))
    }

    /// The name of a field.
    fn of(self, field: &str) -> &str {
        let table: &[(&str, &'static str)] = match self {
            Self::Llama => &[],
            Self::GptNeox => &GPT_NEOX,
            Self::Mixtral => &MIXTRAL,
            Self::GptOss => &GPT_OSS,
            Self::DeepSeek => &DEEP_SEEK,
            Self::Gpt2 => &GPT2,
            Self::Falcon => &FALCON,
        };
        table.iter().find(|(own, _)| *own == field).map_or(field, |(_, name)| *name)
    }

    /// The name of what is at a path of fields, such as `model.layers.0.mlp`.
    pub(crate) fn of_path(self, path: &str) -> String {
        path.split('.').map(|field| self.of(field)).collect::<Vec<_>>().join(".")
    }

    /// Whether files have the weights of layers as `[in, out]`, which others have as `[out, in]`.
    pub(crate) fn turns_layers(self) -> bool {
        self == Self::Gpt2
    }

    /// What the container of a parameter of the body is called to visitors.
    fn container(self, container: &str) -> &str {
        match container {
            "Struct:LowRankLinear" if self.turns_layers() => TURNED_LINEAR,
            other => other,
        }
    }
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
        let is = |path: &str| Names::ALL.iter().any(|names| names.of_path(path) == tensor);
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
        self.inner.enter_module(self.names.of(name), self.names.container(container_type));
    }

    fn exit_module(&mut self, name: &str, container_type: &str) {
        self.inner.exit_module(self.names.of(name), self.names.container(container_type));
    }
}

impl<M: ModuleMapper> ModuleMapper for Named<'_, M> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.inner.enter_module(self.names.of(name), self.names.container(container_type));
    }

    fn exit_module(&mut self, name: &str, container_type: &str) {
        self.inner.exit_module(self.names.of(name), self.names.container(container_type));
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
