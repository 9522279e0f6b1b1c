//! Turns the tokenizer in GGUF metadata into a `tokenizer.json`, and back.

mod around;
mod byte_level;
mod outgoing;
mod phi3;
mod sentence_piece;
mod vocabulary;

use serde_json::{Value, json};

use self::vocabulary::{Kind, Vocabulary};
use super::error::GgufError;
use super::keys::{ADDS_BOS, ADDS_EOS, CHAT_TEMPLATE, NAME, TOKENIZER};
use crate::data::load_tokenizer;
use crate::ggml::GgufFile;
use crate::model::DecoderConfig;
use crate::words::number_of;

pub(super) use outgoing::describe_tokenizer;
pub(super) use phi3::file_name;
pub(super) use vocabulary::SpecialTokens;

/// The contents of the tokenizer's files.
#[derive(Debug)]
pub(super) struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`.
    pub config: Vec<u8>,
}

/// The parts in which the two kinds of tokenizers differ.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    /// Whether a BOS token is added if the file does not state it.
    adds_bos: bool,
}

/// Converts the tokenizer of a file, and loads the result as a check.
///
/// # Errors
///
/// [`GgufError::Tokenizer`] for unknown kinds of tokenizers and unknown ways of splitting text,
/// since another one would give wrong tokens; [`GgufError::Metadata`] for lists that do not belong
/// together.
pub(super) fn read_tokenizer(
    file: &GgufFile,
    special: &SpecialTokens,
    config: &DecoderConfig,
) -> Result<TokenizerFiles, GgufError> {
    let wrong = |reason| GgufError::Tokenizer { path: file.path().into(), reason };
    let vocabulary = Vocabulary::read(file)?;
    if vocabulary.len() > config.vocab_size {
        let tokens = number_of(vocabulary.len(), "token");
        let rows = number_of(config.vocab_size, "row");
        return Err(wrong(format!("it has {tokens}, but the embedding has {rows}")));
    }
    let parts = match file.needed(TOKENIZER, file.text(TOKENIZER)?)? {
        byte_level::NAME => byte_level::parts(file, &vocabulary)?,
        sentence_piece::NAME => sentence_piece::parts(file, &vocabulary, special)?,
        other => {
            return Err(wrong(format!("`{other}` is not supported; gpt2 and llama are")));
        }
    };
    let adds_bos = file.flag(ADDS_BOS)?.unwrap_or(parts.adds_bos);
    let adds_eos = file.flag(ADDS_EOS)?.unwrap_or(false);
    // A token that the file does not name is not added, as in llama.cpp.
    let around = |id: Option<u32>, added: bool| id.filter(|_| added);
    let (first, last) = (around(special.bos, adds_bos), around(special.eos, adds_eos));
    let is_phi3 = file.text(NAME)?.is_some_and(phi3::is_name);
    let mut json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(&vocabulary, is_phi3),
        "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer,
        "post_processor": template(&vocabulary, first, last),
        "decoder": parts.decoder,
    });
    json["model"] = parts.model;
    let tokenizer = format!("{json}\n").into_bytes();
    let loaded = load_tokenizer(&tokenizer).map_err(|fault| wrong(fault.to_string()))?;
    if let Some((id, token)) =
        vocabulary.iter().find(|(id, token)| loaded.token_to_id(token) != Some(*id))
    {
        return Err(wrong(format!("token {id}, `{token}`, does not keep its number")));
    }
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "model_max_length": config.max_position_embeddings,
        "add_bos_token": first.is_some(),
        "add_eos_token": last.is_some(),
    });
    let named = [
        ("bos_token", special.bos),
        ("eos_token", special.eos),
        ("unk_token", special.unknown),
        ("pad_token", special.padding),
    ];
    for (name, id) in named {
        if let Some(token) = id.and_then(|id| vocabulary.get(id)) {
            settings[name] = token.into();
        }
    }
    if let Some(template) = file.text(CHAT_TEMPLATE)? {
        settings["chat_template"] = template.into();
    }
    Ok(TokenizerFiles { tokenizer, config: format!("{settings:#}\n").into_bytes() })
}

/// The steps of a part of a `tokenizer.json`; `list` is where a sequence keeps its own. The file was
/// loaded before, so sequences are not nested deeply.
fn steps<'a>(part: &'a Value, list: &str) -> Vec<&'a Value> {
    match part {
        Value::Null => Vec::new(),
        part if part["type"] == "Sequence" => {
            let inner = part[list].as_array().into_iter().flatten();
            inner.flat_map(|step| steps(step, list)).collect()
        }
        step => vec![step],
    }
}

/// Tokens that are found in a text before it is split. They are in the model's vocabulary as well,
/// which keeps their numbers. `is_phi3` is whether they take the spaces after them as in Phi-3.
fn added_tokens(vocabulary: &Vocabulary<'_>, is_phi3: bool) -> Value {
    let added = vocabulary.iter().filter_map(|(id, token)| {
        let special = match vocabulary.kind(id) {
            Kind::Control | Kind::Unknown => true,
            Kind::UserDefined => false,
            _ => return None,
        };
        Some(json!({
            "id": id,
            "content": token,
            "single_word": false,
            "lstrip": false,
            "rstrip": is_phi3 && phi3::takes_spaces(token),
            "normalized": false,
            "special": special,
        }))
    });
    added.collect()
}

/// A post-processor that puts `first` before and `last` after a text, if there are any.
fn template(vocabulary: &Vocabulary<'_>, first: Option<u32>, last: Option<u32>) -> Value {
    let named = |id: Option<u32>| id.and_then(|id| Some((id, vocabulary.get(id)?)));
    let (first, last) = (named(first), named(last));
    if first.is_none() && last.is_none() {
        return Value::Null;
    }
    let sequence = |id: &str, type_id: u32| -> Vec<Value> {
        let special = |token: Option<(u32, &str)>| {
            token.map(|(_, token)| json!({ "SpecialToken": { "id": token, "type_id": type_id } }))
        };
        let text = json!({ "Sequence": { "id": id, "type_id": type_id } });
        [special(first), Some(text), special(last)].into_iter().flatten().collect()
    };
    let tokens: serde_json::Map<String, Value> = [first, last]
        .into_iter()
        .flatten()
        .map(|(id, token)| {
            (token.to_string(), json!({ "id": token, "ids": [id], "tokens": [token] }))
        })
        .collect();
    let pair = [sequence("A", 0), sequence("B", 1)].concat();
    json!({
        "type": "TemplateProcessing",
        "single": sequence("A", 0),
        "pair": pair,
        "special_tokens": tokens,
    })
}
