//! Turns GGUF metadata into a `config.json`.

use serde_json::{Value, json};

use super::architectures::{self, Known};
use super::error::GgufError;
use super::keys;
use super::rope::{Frequencies, rope_scaling};
use super::stated::Stated;
use super::tokenizer::SpecialTokens;
use crate::ggml::{ContainerError, GgufFile};
use crate::model::DecoderConfig;

/// A configuration, as it is written and as it is read back.
#[derive(Debug)]
pub(super) struct ModelConfig {
    /// The architecture that the file names.
    pub architecture: Known,
    /// The text of `config.json`.
    pub json: String,
    /// That text as this library reads it.
    pub config: DecoderConfig,
}

/// Metadata that would change what is computed, unless the architecture has them, with the values
/// that do not.
const NEUTRAL: [(&str, f64); 10] = [
    (keys::ATTENTION_SCALE, 0.0),
    (keys::QKV_CLIP, 0.0),
    (keys::EMBEDDING_SCALE, 1.0),
    (keys::RESIDUAL_SCALE, 1.0),
    (keys::LOGIT_SCALE, 1.0),
    (keys::ATTENTION_CAP, 0.0),
    (keys::LOGIT_CAP, 0.0),
    (keys::EXPERTS, 0.0),
    (keys::EXPERT_SCALE, 1.0),
    (keys::EXPERT_GROUPS, 0.0),
];

/// Describes the model of a file.
pub(super) fn read_config(
    file: &GgufFile,
    special: &SpecialTokens,
) -> Result<ModelConfig, GgufError> {
    let name = file.needed(keys::ARCHITECTURE, file.text(keys::ARCHITECTURE)?)?;
    let Some(architecture) = architectures::named(name) else {
        let (path, architecture) = (file.path().into(), name.into());
        let supported = architectures::names();
        return Err(GgufError::Architecture { path, architecture, supported });
    };
    let stated = Stated { file, architecture };
    check_neutral(&stated)?;
    let mut json = describe(&stated)?;
    add_tokens(&mut json, special);
    architecture.restore(&stated, &mut json)?;
    let text = format!("{json:#}\n");
    let config = DecoderConfig::from_hf_json(&text)
        .map_err(|source| GgufError::Config { path: file.path().into(), source })?;
    check_heads(&stated, &config)?;
    Ok(ModelConfig { architecture, json: text, config })
}

fn check_neutral(stated: &Stated<'_>) -> Result<(), GgufError> {
    let own = stated.architecture.reads();
    for (key, neutral) in NEUTRAL.into_iter().filter(|(key, _)| !own.contains(key)) {
        let value = match stated.integer(key) {
            Ok(value) => value.map(|value| value as f64),
            Err(_) => stated.number(key)?,
        };
        if let Some(value) = value.filter(|value| *value != neutral) {
            return Err(stated.wrong(key, format!("is {value}; only {neutral} is supported")));
        }
    }
    Ok(())
}

/// What all families have in their `config.json`, with the activation of most.
fn describe(stated: &Stated<'_>) -> Result<Value, GgufError> {
    let hidden = stated.needed(keys::HIDDEN)?;
    let heads = stated.needed(keys::HEADS)?;
    let context = stated.needed(keys::CONTEXT)?;
    let theta = stated.number(keys::ROPE_BASE)?.unwrap_or(10000.0);
    let mut json = json!({
        "vocab_size": vocab_size(stated)?,
        "hidden_size": hidden,
        "intermediate_size": mlp_widths(stated)?,
        "num_hidden_layers": stated.needed(keys::LAYERS)?,
        "num_attention_heads": heads,
        "num_key_value_heads": stated.integer(keys::KV_HEADS)?.unwrap_or(heads),
        "head_dim": stated.head_width()?,
        "hidden_act": "silu",
        "rope_theta": theta,
        "max_position_embeddings": context,
        "tie_word_embeddings": !stated.has("output.weight"),
    });
    let (key, field) = stated.architecture.epsilon();
    json[field] = stated.needed_number(key)?.into();
    let width = stated.rotary_width()? as usize;
    scale(stated, &mut json, &Frequencies { theta, width, context })?;
    Ok(json)
}

/// Adds the tokens that begin and end texts.
fn add_tokens(json: &mut Value, special: &SpecialTokens) {
    // Without these, readers take those of the family's first models.
    json["bos_token_id"] = special.bos.into();
    match special.ends[..] {
        [] => json["eos_token_id"] = Value::Null,
        [end] => json["eos_token_id"] = end.into(),
        ref ends => json["eos_token_id"] = ends.into(),
    }
}

/// Adds the scaling of the rotary frequencies.
fn scale(
    stated: &Stated<'_>,
    json: &mut Value,
    frequencies: &Frequencies,
) -> Result<(), GgufError> {
    let Some(scaling) = rope_scaling(stated.file, stated.architecture, frequencies)? else {
        return Ok(());
    };
    if scaling["rope_type"] == "longrope" {
        // transformers 4 reads it nowhere else.
        let field = "original_max_position_embeddings";
        json[field] = scaling[field].clone();
    }
    json["rope_scaling"] = scaling;
    Ok(())
}

/// The width of the MLPs: one number, or a list with one for each layer.
fn mlp_widths(stated: &Stated<'_>) -> Result<Value, ContainerError> {
    if let Some(widths) = stated.file.list(&stated.name(keys::MLP)) {
        return Ok(widths?.into());
    }
    Ok(stated.needed(keys::MLP)?.into())
}

/// The number of rows of the embedding: `vocab_size` in the metadata and the list of tokens may not
/// count its padding.
fn vocab_size(stated: &Stated<'_>) -> Result<usize, GgufError> {
    let name = "token_embd.weight";
    let embedding = stated.file.tensors().get(name);
    match embedding.and_then(|info| info.shape.get(1)) {
        Some(rows) => Ok(*rows),
        None => Err(stated.file.wrong_tensor(name, "is missing or not a matrix".into())),
    }
}

/// Refuses heads whose values have another width than their keys, and other rotary positions than
/// those of the family.
fn check_heads(stated: &Stated<'_>, config: &DecoderConfig) -> Result<(), GgufError> {
    let (width, rotated) = (config.head_dim, config.rotary_width.unwrap_or(config.head_dim));
    let of_values = config.latent.map_or(width, |latent| latent.values);
    let key = stated.value_key()?;
    if let Some(found) = stated.integer(key)?.filter(|w| *w != of_values as u64) {
        let reason = format!("is {found}, but the values of a head are {of_values} wide");
        return Err(stated.wrong(key, reason));
    }
    match stated.integer(keys::ROPE_WIDTH)?.filter(|w| *w != rotated as u64) {
        Some(found) => {
            let reason = format!("is {found}, but {rotated} of {width} channels are rotated");
            Err(stated.wrong(keys::ROPE_WIDTH, reason))
        }
        None => Ok(()),
    }
}
