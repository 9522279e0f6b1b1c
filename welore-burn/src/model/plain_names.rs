//! The names that tensors have in a checkpoint, as a decoder names them: wrappers of a model and
//! models that it is a part of put something before them, and some checkpoints leave something out.

use std::collections::BTreeSet;
use std::path::Path;

use super::families::{all_names, family_of};
use super::load::LoadError;
use super::names::{Names, is_below};
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
    let names = names_in(&checkpoint);
    let renaming = Renaming::of(&checkpoint, names);
    let checkpoint = match type_of_parts(dir) {
        Some(_) => text_alone(checkpoint, renaming.as_ref(), names),
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

/// What may be in the place of a decoder's body: the names of decoders within models of more than text.
/// The first that is found counts.
const OTHER_BODIES: [&str; 3] =
    ["model.language_model.", "language_model.model.", "language_model."];

/// How names in a checkpoint become those of the decoder.
#[derive(Debug, PartialEq, Eq)]
struct Renaming {
    wrapper: String,
    /// What is replaced by what the decoder has there; `None` if only the wrapper goes.
    body: Option<String>,
    /// What the decoder has there.
    own: String,
}

impl Renaming {
    /// The renaming that a checkpoint with these names needs, if any.
    fn of(checkpoint: &Checkpoint, names: Names) -> Option<Self> {
        let firsts = first_layers();
        let before = |name| before_layers(name, &firsts);
        let places: BTreeSet<&str> = checkpoint.names().filter_map(before).collect();
        let own = names.of_path("model.");
        let others: Vec<&str> = OTHER_BODIES.into_iter().chain([without_head(&own)]).collect();
        // A vision tower has layers too, and is before the text in the alphabet.
        let split = |place: &&str| {
            let inner = unwrapped(place);
            let wrapper = place[..place.len() - inner.len()].to_string();
            let body = others.iter().position(|body| *body == inner);
            match (inner == own, body, wrapper.is_empty()) {
                (true, _, _) => Some((0, wrapper, None)),
                (false, Some(rank), _) => Some((1 + rank, wrapper, Some(inner.to_string()))),
                // The names of another decoder, which only has to be unwrapped.
                (false, None, false) => Some((1 + others.len(), wrapper, None)),
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
        let Some(body) = &self.body else { return Some(inner.into()) };
        let head = [inner, inner.strip_prefix("language_model.").unwrap_or(inner)];
        // It is beside the body.
        if let Some(head) = head.into_iter().find(|name| Names::is_in_head(name)) {
            return Some(head.into());
        }
        Some(format!("{}{}", self.own, inner.strip_prefix(body.as_str())?))
    }

    fn apply(self, checkpoint: Checkpoint) -> Checkpoint {
        let new_name = |name: &str| self.renamed(name).unwrap_or_else(|| name.to_string());
        let names: BTreeSet<String> = checkpoint.names().map(new_name).collect();
        if names.len() < checkpoint.names().count() {
            // Two tensors would have one name: neither is the model's alone.
            return checkpoint;
        }
        let Self { wrapper, body, own } = &self;
        let from = format!("{wrapper}{}", body.as_deref().unwrap_or_default());
        let to = if body.is_some() { own.clone() } else { String::new() };
        checkpoint.renamed(new_name, &from, &to).with_remark(Remark::Renamed { from, to })
    }
}

/// How a checkpoint names tensors, by one that no other family has.
fn names_in(checkpoint: &Checkpoint) -> Names {
    let is_there = |tensor: &str| {
        let mut places = checkpoint.names().filter_map(|name| name.strip_suffix(tensor));
        places.any(|place| place.is_empty() || place.ends_with('.'))
    };
    let told = |names: &Names| names.told_by.is_some_and(is_there);
    all_names().find(told).unwrap_or(Names::LLAMA)
}

/// What is before the layers of a decoder that was saved without its head.
fn without_head(body: &str) -> &str {
    body.split_once('.').map_or("", |(_, inner)| inner)
}

/// Gives each expert its matrices where a file has those of all in one tensor. Files that have one may
/// not have the names of their family for the rest either.
fn of_experts(checkpoint: Checkpoint, dir: &Path) -> Checkpoint {
    let checkpoint = checkpoint.unstacked();
    let is_new = |remark: &Remark| matches!(remark, Remark::Unstacked { .. });
    if !checkpoint.remarks().iter().any(is_new) {
        return checkpoint;
    }
    let family = type_of_text(dir).and_then(|model_type| family_of(&model_type).ok());
    let mut names = family.iter().flat_map(|family| family.names());
    match names.find(|names| names.stacks_as_fields) {
        Some(names) => checkpoint.renamed(|name| names.of_path(name), "", ""),
        None => checkpoint,
    }
}

/// How the names of first layers begin in all families, after what is before them.
fn first_layers() -> Vec<String> {
    let layers: BTreeSet<&str> = all_names().map(|names| names.of("layers")).collect();
    layers.into_iter().map(|layers| format!("{layers}.0.")).collect()
}

/// What is before the first layer in a name, if the name is of a tensor in it.
fn before_layers<'a>(name: &'a str, firsts: &[String]) -> Option<&'a str> {
    firsts.iter().find_map(|first| {
        let at = match name.starts_with(first.as_str()) {
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

/// The parts of a decoder, where nothing else tells its tensors from others.
const DECODER: [&str; 5] =
    ["model.layers", "model.embed_tokens", "model.embed_positions", "model.norm", "lm_head"];

/// Leaves out what does not belong to the text.
fn text_alone(checkpoint: Checkpoint, renaming: Option<&Renaming>, names: Names) -> Checkpoint {
    let parts = DECODER.map(|path| names.of_path(path));
    let is_other = |name: &str| match renaming {
        Some(renaming) => renaming.renamed(name).is_none(),
        None => !parts.iter().any(|part| is_below(name, part)),
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

    fn renaming(wrapper: &str, body: Option<&str>) -> Renaming {
        let body = body.map(String::from);
        Renaming { wrapper: wrapper.into(), body, own: "model.".into() }
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
        let neox = Renaming { own: "gpt_neox.".into(), ..renaming("", Some("")) };
        assert_eq!(neox.renamed("layers.0.a").unwrap(), "gpt_neox.layers.0.a");
        assert_eq!(neox.renamed("embed_out.weight").unwrap(), "embed_out.weight");
        let gpt2 = Renaming { own: "transformer.".into(), ..renaming("", Some("")) };
        assert_eq!(
            gpt2.renamed("h.0.attn.c_attn.weight").unwrap(),
            "transformer.h.0.attn.c_attn.weight"
        );
        assert_eq!(gpt2.renamed("wpe.weight").unwrap(), "transformer.wpe.weight");
    }

    #[test]
    fn places_of_layers_are_found_at_the_beginning_of_a_word() {
        let firsts = first_layers();
        for (name, place) in [
            ("layers.0.a", ""),
            ("_orig_mod.model.layers.0.a", "_orig_mod.model."),
            ("transformer.h.0.a", "transformer."),
        ] {
            assert_eq!(before_layers(name, &firsts), Some(place), "{name}");
        }
        for name in ["players.0.a", "model.layers.10.a", "layers.0", "path.0.a"] {
            assert_eq!(before_layers(name, &firsts), None, "{name}");
        }
        assert_eq!(unwrapped("module._orig_mod.model."), "model.");
        for (body, inner) in [("model.", ""), ("model.decoder.", "decoder.")] {
            assert_eq!(without_head(body), inner);
        }
    }
}
