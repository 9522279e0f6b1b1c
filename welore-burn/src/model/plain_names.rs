//! The names that tensors have in a checkpoint, as a decoder names them: wrappers of a model and
//! models that it is a part of put something before them, and some checkpoints leave something out.

use std::collections::BTreeSet;
use std::path::Path;

use super::load::LoadError;
use super::names::Names;
use super::text_part::{type_of_parts, type_of_text};
use crate::checkpoint::{Checkpoint, Remark, TensorMeta};

/// Opens the weights of a model that is known here, with the names that its decoder gives them and
/// without buffers, and of a model of more than text only the text; [`Checkpoint::remarks`] says what
/// was changed. What is written from it has these names.
///
/// # Errors
///
/// [`LoadError::Checkpoint`], as [`Checkpoint::open`].
pub fn open_weights(dir: impl AsRef<Path>) -> Result<Checkpoint, LoadError> {
    let dir = dir.as_ref();
    let checkpoint = of_experts(Checkpoint::open(dir)?, dir);
    let renaming = Renaming::of(&checkpoint);
    let checkpoint = match type_of_parts(dir) {
        Some(_) => text_alone(checkpoint, renaming.as_ref()),
        None => checkpoint,
    };
    let checkpoint = match renaming {
        Some(renaming) => renaming.apply(checkpoint),
        None => checkpoint,
    };
    Ok(without_buffers(checkpoint))
}

/// What programs put before all names: adapters of the PEFT library that were merged in place,
/// `torch.compile`, and parallel training.
const WRAPPERS: [&str; 4] = ["base_model.model.", "_orig_mod.", "_fsdp_wrapped_module.", "module."];

/// What is before `layers.0.` in the names of a decoder.
const BODY: &str = "model.";

/// The same in GPT-NeoX, GPT-2 and Falcon, whose embeddings have other names, too.
const OWN_BODIES: [(&str, &str); 3] = [
    ("gpt_neox.", "embed_in.weight"),
    ("transformer.", "wte.weight"),
    ("transformer.", "word_embeddings.weight"),
];

/// What may be there instead: the names of decoders within models of more than text, and those of a
/// decoder that was saved without its head. The first that is found counts.
const OTHER_BODIES: [&str; 4] =
    ["model.language_model.", "language_model.model.", "language_model.", ""];

/// How the names of layers begin, after what is before them.
const FIRST_LAYERS: [&str; 2] = ["layers.0.", "h.0."];

/// The head, which is beside the body.
const HEAD: &str = "lm_head.";

/// The same in any family.
const HEADS: [&str; 2] = [HEAD, "embed_out."];

/// How names in a checkpoint become those of the decoder.
#[derive(Debug, PartialEq, Eq)]
struct Renaming {
    wrapper: String,
    /// What is replaced by what the decoder has there; `None` if only the wrapper goes.
    body: Option<&'static str>,
    /// What the decoder has there.
    own: &'static str,
}

impl Renaming {
    /// The renaming that a checkpoint needs, if any.
    fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let places: BTreeSet<&str> = checkpoint.names().filter_map(before_layers).collect();
        let own = own_body(checkpoint);
        // A vision tower has layers too, and is before the text in the alphabet.
        let split = |place: &&str| {
            let inner = unwrapped(place);
            let wrapper = place[..place.len() - inner.len()].to_string();
            let body = OTHER_BODIES.iter().position(|body| *body == inner);
            match (inner == own, body, wrapper.is_empty()) {
                (true, _, _) => Some((0, wrapper, None)),
                (false, Some(rank), _) => Some((1 + rank, wrapper, Some(OTHER_BODIES[rank]))),
                // The names of another decoder, which only has to be unwrapped.
                (false, None, false) => Some((1 + OTHER_BODIES.len(), wrapper, None)),
                (false, None, true) => None,
            }
        };
        let (_, wrapper, body) = places.iter().filter_map(split).min()?;
        let renaming = Self { wrapper, body, own };
        (!renaming.wrapper.is_empty() || renaming.body.is_some()).then_some(renaming)
    }

    /// The name that the decoder gives a tensor; `None` if it stays.
    fn renamed(&self, name: &str) -> Option<String> {
        let inner = name.strip_prefix(&self.wrapper)?;
        let Some(body) = self.body else { return Some(inner.into()) };
        let head = [inner, inner.strip_prefix("language_model.").unwrap_or(inner)];
        let is_head = |name: &&str| HEADS.iter().any(|head| name.starts_with(head));
        if let Some(head) = head.into_iter().find(is_head) {
            return Some(head.into());
        }
        Some(format!("{}{}", self.own, inner.strip_prefix(body)?))
    }

    fn apply(self, checkpoint: Checkpoint) -> Checkpoint {
        let new_name = |name: &str| self.renamed(name).unwrap_or_else(|| name.to_string());
        let names: BTreeSet<String> = checkpoint.names().map(new_name).collect();
        if names.len() < checkpoint.names().count() {
            // Two tensors would have one name: neither is the model's alone.
            return checkpoint;
        }
        let Self { wrapper, body, own } = &self;
        let from = format!("{wrapper}{}", body.unwrap_or_default());
        let to = if body.is_some() { own.to_string() } else { String::new() };
        checkpoint.renamed(new_name, &from, &to).with_remark(Remark::Renamed { from, to })
    }
}

/// What the decoder that a checkpoint is of has before its layers.
fn own_body(checkpoint: &Checkpoint) -> &'static str {
    let is_there = |embedding: &str| {
        let mut places = checkpoint.names().filter_map(|name| name.strip_suffix(embedding));
        places.any(|place| place.is_empty() || place.ends_with('.'))
    };
    let own = OWN_BODIES.into_iter().find(|(_, embedding)| is_there(embedding));
    own.map_or(BODY, |(own, _)| own)
}

/// Gives each expert its matrices where a file has those of all in one tensor. Files of Mixtral that
/// have one do not have Mixtral's names for the rest either.
fn of_experts(checkpoint: Checkpoint, dir: &Path) -> Checkpoint {
    let checkpoint = checkpoint.unstacked();
    let is_new = |remark: &Remark| matches!(remark, Remark::Unstacked { .. });
    let is_mixtral = checkpoint.remarks().iter().any(is_new)
        && type_of_text(dir).is_some_and(|model_type| model_type == "mixtral");
    match is_mixtral {
        true => checkpoint.renamed(|name| Names::Mixtral.of_path(name), "", ""),
        false => checkpoint,
    }
}

/// What is before the first layer in a name, if the name is of a tensor in it.
fn before_layers(name: &str) -> Option<&str> {
    FIRST_LAYERS.iter().find_map(|first| {
        let at = match name.starts_with(first) {
            true => 0,
            false => name.find(&format!(".{first}"))? + 1,
        };
        Some(&name[..at])
    })
}

/// A beginning of names without wrappers.
fn unwrapped(mut place: &str) -> &str {
    while let Some(inner) = WRAPPERS.iter().find_map(|wrapper| place.strip_prefix(wrapper)) {
        place = inner;
    }
    place
}

/// The beginnings of a decoder's names, where nothing else tells its tensors from others.
const DECODER: [&str; 4] = ["model.layers.", "model.embed_tokens.", "model.norm.", HEAD];

/// Leaves out what does not belong to the text.
fn text_alone(checkpoint: Checkpoint, renaming: Option<&Renaming>) -> Checkpoint {
    let is_other = |name: &str| match renaming {
        Some(renaming) => renaming.renamed(name).is_none(),
        None => !DECODER.iter().any(|start| name.starts_with(start)),
    };
    let tensors = checkpoint.names().filter(|name| is_other(name)).count();
    match tensors {
        0 => checkpoint,
        _ => checkpoint.without(is_other).with_remark(Remark::TextAlone { tensors }),
    }
}

/// Leaves out tensors that are no parameters.
fn without_buffers(checkpoint: Checkpoint) -> Checkpoint {
    let is_one = |name: &str| checkpoint.meta(name).is_some_and(|meta| is_buffer(name, meta));
    let buffers: BTreeSet<String> =
        checkpoint.names().filter(|name| is_one(name)).map(String::from).collect();
    let Some(first) = buffers.first().cloned() else { return checkpoint };
    let tensors = buffers.len();
    let checkpoint = checkpoint.without(|name| buffers.contains(name));
    checkpoint.with_remark(Remark::Ignored { tensors, first })
}

/// The ends of the names of buffers: masks, positions, and the scales of activations.
const BUFFERS: [&str; 7] = [
    "masked_bias",
    "position_ids",
    "input_scale",
    "activation_scale",
    "output_scale",
    "k_scale",
    "v_scale",
];

/// Whether a tensor is something that models compute by themselves.
fn is_buffer(name: &str, meta: &TensorMeta) -> bool {
    let kind = name.rsplit('.').next().unwrap_or_default();
    // The masks of GPT-2 and GPT-NeoX are named as biases are, which are vectors.
    let is_mask = kind == "bias" && meta.shape.len() == 4;
    name.contains("rotary_emb.") || is_mask || BUFFERS.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renaming(wrapper: &str, body: Option<&'static str>) -> Renaming {
        Renaming { wrapper: wrapper.into(), body, own: BODY }
    }

    #[test]
    fn names_become_those_of_the_decoder() {
        let plain = ["model.layers.0.mlp.up_proj.weight", "lm_head.weight"];
        for (renaming, found) in [
            (
                renaming("base_model.model.", None),
                [
                    "base_model.model.model.layers.0.mlp.up_proj.weight",
                    "base_model.model.lm_head.weight",
                ],
            ),
            (renaming("", Some("")), ["layers.0.mlp.up_proj.weight", "lm_head.weight"]),
            (
                renaming("", Some("model.language_model.")),
                ["model.language_model.layers.0.mlp.up_proj.weight", "lm_head.weight"],
            ),
            (
                renaming("module.", Some("language_model.model.")),
                [
                    "module.language_model.model.layers.0.mlp.up_proj.weight",
                    "module.language_model.lm_head.weight",
                ],
            ),
        ] {
            let got = found.map(|name| renaming.renamed(name).unwrap());
            assert_eq!(got, plain, "{renaming:?}");
        }
        let [(neox, _), (gpt2, _), _] = OWN_BODIES;
        let neox = Renaming { own: neox, ..renaming("", Some("")) };
        assert_eq!(neox.renamed("layers.0.a").unwrap(), "gpt_neox.layers.0.a");
        assert_eq!(neox.renamed("embed_out.weight").unwrap(), "embed_out.weight");
        let gpt2 = Renaming { own: gpt2, ..renaming("", Some("")) };
        assert_eq!(
            gpt2.renamed("h.0.attn.c_attn.weight").unwrap(),
            "transformer.h.0.attn.c_attn.weight"
        );
        assert_eq!(gpt2.renamed("wpe.weight").unwrap(), "transformer.wpe.weight");
    }

    #[test]
    fn places_of_layers_are_found_at_the_beginning_of_a_word() {
        assert_eq!(before_layers("layers.0.a"), Some(""));
        assert_eq!(before_layers("_orig_mod.model.layers.0.a"), Some("_orig_mod.model."));
        assert_eq!(before_layers("transformer.h.0.a"), Some("transformer."));
        for name in ["players.0.a", "model.layers.10.a", "layers.0", "path.0.a"] {
            assert_eq!(before_layers(name), None, "{name}");
        }
        assert_eq!(unwrapped("module._orig_mod.model."), "model.");
    }
}
