//! Turns the tokenizer of a model directory into GGUF metadata.

use std::path::Path;

use serde_json::Value;

use super::super::error::GgufError;
use super::super::keys;
use super::around::Around;
use super::vocabulary::Kind;
use super::{byte_level, phi3, sentence_piece, steps};
use crate::data::load_tokenizer;
use crate::files::{LARGEST_COMPANION, LARGEST_CONFIG, check_fetched, read_existing};
use crate::ggml::{Value as Meta, Values};
use crate::model::DecoderConfig;
use crate::words::number_of;

/// Metadata of a file, by their whole keys.
type Entries = Vec<(String, Meta)>;

/// The metadata that describe the tokenizer of a model directory, and whether special tokens take the
/// spaces after them as in Phi-3, which only the name of a file says.
///
/// # Errors
///
/// [`GgufError::Unsupported`] for tokenizers that llama.cpp does not have, and for ways of splitting
/// text that have no name there: another one would give wrong tokens. [`GgufError::File`].
pub(in super::super) fn describe_tokenizer(
    dir: &Path,
    config: &DecoderConfig,
) -> Result<(Entries, bool), GgufError> {
    let wrong = |reason: String| {
        let reason = format!("its tokenizer: {reason}");
        GgufError::Unsupported { path: dir.into(), reason }
    };
    let path = dir.join("tokenizer.json");
    let Some(content) = read_existing(&path, LARGEST_COMPANION)? else {
        return Err(wrong("there is no tokenizer.json".into()));
    };
    check_fetched(&path, &content)?;
    let (tokens, json) = Tokens::read(&content, config.vocab_size).map_err(wrong)?;
    let settings = read_settings(dir)?;
    let mut entries = match tokens.has_bytes {
        true => describe_sentence_piece(&json, &tokens),
        false => describe_byte_level(&json),
    }
    .map_err(wrong)?;
    entries.extend(describe_special(&json, &settings, &tokens, config).map_err(wrong)?);
    if let Some(template) = chat_template(dir, &settings)? {
        entries.push((keys::CHAT_TEMPLATE.into(), Meta::String(template)));
    }
    let is_phi3 = tokens.is_phi3;
    let (texts, kinds): (Vec<String>, Vec<Kind>) = tokens.list.into_iter().unzip();
    let kinds = kinds.into_iter().map(Kind::number).collect();
    entries.push((keys::TOKENS.into(), list(Values::String(texts))));
    entries.push((keys::KINDS.into(), list(Values::I32(kinds))));
    Ok((entries, is_phi3))
}

fn list(values: Values) -> Meta {
    Meta::Array(Box::new(values))
}

fn text(text: &str) -> Meta {
    Meta::String(text.into())
}

/// The tokens of a tokenizer, one for each row of the embedding.
struct Tokens {
    list: Vec<(String, Kind)>,
    /// Whether bytes that no other token covers have tokens of their own.
    has_bytes: bool,
    /// Whether special tokens take the spaces after them as in Phi-3.
    is_phi3: bool,
}

impl Tokens {
    /// The tokens of a `tokenizer.json`, and the file as JSON.
    fn read(content: &[u8], rows: usize) -> Result<(Self, Value), String> {
        // Checks everything that is taken for granted here.
        let loaded = load_tokenizer(content).map_err(|fault| fault.to_string())?;
        let json: Value = serde_json::from_slice(content).map_err(|e| e.to_string())?;
        let model = &json["model"];
        check_model(model)?;
        let has_bytes = model["byte_fallback"] == true;
        let unknown = model["unk_token"].as_str().filter(|_| has_bytes);
        let vocabulary = loaded.get_vocab(true);
        let added = loaded.get_added_tokens_decoder();
        let is_phi3 =
            phi3::are_tokens(added.values().map(|token| (token.content.as_str(), token.rstrip)));
        let mut found: Vec<Option<(String, Kind)>> = vec![None; rows];
        for (token, id) in &vocabulary {
            let Some(place) = found.get_mut(*id as usize) else {
                let rows = number_of(rows, "row");
                return Err(format!("token {id} has no row in the embedding, which has {rows}"));
            };
            let takes = is_phi3 && phi3::takes_spaces(token);
            let kind = match added.get(id) {
                _ if Some(token.as_str()) == unknown => Kind::Unknown,
                Some(added) if added.lstrip || added.rstrip != takes || added.single_word => {
                    return Err(format!("token {id} depends on the spaces around it"));
                }
                Some(added) if added.special => Kind::Control,
                Some(_) => Kind::UserDefined,
                None if has_bytes && is_byte(token) => Kind::Byte,
                None => Kind::Normal,
            };
            if place.replace((token.clone(), kind)).is_some() {
                return Err(format!("two tokens have the number {id}"));
            }
        }
        let padding = |id: usize| {
            // Never occurs in a text, but llama.cpp wants another name for each.
            let mut name = format!("[PAD{id}]");
            while vocabulary.contains_key(&name) {
                name.push('_');
            }
            (name, Kind::Unused)
        };
        let list: Vec<(String, Kind)> = found
            .into_iter()
            .enumerate()
            .map(|(id, token)| token.unwrap_or_else(|| padding(id)))
            .collect();
        if has_bytes && list.iter().filter(|(_, kind)| *kind == Kind::Byte).count() != 256 {
            return Err("some bytes have no token".into());
        }
        Ok((Self { list, has_bytes, is_phi3 }, json))
    }

    /// The number of a token.
    fn id(&self, token: &str) -> Option<u32> {
        let found =
            self.list.iter().position(|(text, kind)| text == token && *kind != Kind::Unused);
        found.map(|id| id as u32)
    }

    /// A number that a token has.
    fn known(&self, id: u32) -> Option<u32> {
        self.list.get(id as usize).filter(|(_, kind)| *kind != Kind::Unused).map(|_| id)
    }
}

/// Whether a token stands for a byte: `<0x00>` to `<0xFF>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    let is_digit = |c: char| c.is_ascii_digit() || ('A'..='F').contains(&c);
    digits.is_some_and(|digits| digits.len() == 2 && digits.chars().all(is_digit))
}

/// Refuses models that are not BPE as llama.cpp does it.
fn check_model(model: &Value) -> Result<(), String> {
    if model["type"] != "BPE" {
        let kind = model["type"].as_str().unwrap_or("none");
        return Err(format!("its model is of type {kind}; only BPE is supported"));
    }
    for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model[name].as_str().is_some_and(|affix| !affix.is_empty()) {
            return Err(format!("its model has a `{name}`"));
        }
    }
    match model["dropout"].as_f64() {
        Some(dropout) if dropout != 0.0 => Err("its model drops merges at random".into()),
        _ => Ok(()),
    }
}

/// The merges of a model, each as two tokens.
fn read_merges(model: &Value) -> Result<Vec<(String, String)>, String> {
    let merges = model["merges"].as_array().into_iter().flatten();
    let read = |merge: &Value| -> Result<(String, String), String> {
        let pair = match merge {
            Value::String(merge) => byte_level::split_merge(merge),
            pair => pair[0].as_str().zip(pair[1].as_str()),
        };
        let (left, right) = pair.ok_or_else(|| format!("the merge {merge} is not a pair"))?;
        Ok((left.to_string(), right.to_string()))
    };
    merges.map(read).collect()
}

fn describe_byte_level(json: &Value) -> Result<Entries, String> {
    let decodes = steps(&json["decoder"], "decoders");
    if !decodes.iter().any(|step| step["type"] == "ByteLevel") {
        return Err("it has neither byte-level tokens nor tokens for all bytes".into());
    }
    let model = &json["model"];
    let whole = model["ignore_merges"] == true;
    let pre = byte_level::splitting_name(&json["normalizer"], &json["pre_tokenizer"], whole);
    let Some(pre) = pre else {
        return Err("it splits text in a way that has no name here, and another one would give \
                    wrong tokens; known are those of GPT-2, GPT-4o, SmolLM, LLaMA 3, Qwen2, OLMo, \
                    Command R, Seed and Tekken"
            .into());
    };
    let join = |(left, right): (String, String)| {
        let merge = format!("{left} {right}");
        let is_pair = byte_level::split_merge(&merge) == Some((left.as_str(), right.as_str()));
        match is_pair {
            true => Ok(merge),
            false => Err(format!("the merge of `{left}` and `{right}` has a space in it")),
        }
    };
    let merges = read_merges(model)?.into_iter().map(join).collect::<Result<Vec<_>, _>>()?;
    Ok(vec![
        (keys::TOKENIZER.into(), text(byte_level::NAME)),
        (keys::PRE.into(), text(pre)),
        (keys::MERGES.into(), list(Values::String(merges))),
    ])
}

fn describe_sentence_piece(json: &Value, tokens: &Tokens) -> Result<Entries, String> {
    let prefix = sentence_piece::space_prefix(&json["normalizer"]);
    let prefix = prefix.filter(|_| sentence_piece::splits_nothing(&json["pre_tokenizer"]));
    let Some(prefix) = prefix else {
        return Err("it treats spaces in another way than LLaMA 2, and another one would give \
                    wrong tokens"
            .into());
    };
    let model = &json["model"];
    if model["ignore_merges"] == true {
        return Err("it takes whole pieces without merges".into());
    }
    let scores = sentence_piece::scores(&tokens.list, &read_merges(model)?)?;
    Ok(vec![
        (keys::TOKENIZER.into(), text(sentence_piece::NAME)),
        (keys::PRE.into(), text("default")),
        (keys::SCORES.into(), list(Values::F32(scores))),
        (keys::SPACE_PREFIX.into(), Meta::Bool(prefix)),
    ])
}

/// The special tokens, and which of them are added around a text.
fn describe_special(
    json: &Value,
    settings: &Value,
    tokens: &Tokens,
    config: &DecoderConfig,
) -> Result<Entries, String> {
    let around = Around::read(&json["post_processor"])?;
    let stated = |name: &str| {
        let token = &settings[name];
        tokens.id(token.as_str().or_else(|| token["content"].as_str())?)
    };
    let known = |id: u32| tokens.known(id);
    let bos = stated("bos_token").or(config.bos_token_id.and_then(known)).or(around.before);
    let ends = || config.eos_token_ids.iter().copied().filter_map(known);
    let eos = stated("eos_token").or_else(|| ends().next()).or(around.after);
    if around.before.is_some() && around.before != bos {
        return Err("the token that it adds before a text is not the one that begins texts".into());
    }
    if around.after.is_some() && around.after != eos {
        return Err("the token that it adds after a text is not the one that ends texts".into());
    }
    let unknown = stated("unk_token").or_else(|| tokens.id(json["model"]["unk_token"].as_str()?));
    let numbered = [
        ("bos", bos),
        ("eos", eos),
        // A turn may have an end of its own.
        ("eot", ends().find(|id| Some(*id) != eos)),
        ("unknown", unknown),
        ("padding", stated("pad_token")),
    ];
    let numbered =
        numbered.into_iter().filter_map(|(name, id)| Some((keys::special(name), Meta::U32(id?))));
    let added = [(keys::ADDS_BOS, around.before), (keys::ADDS_EOS, around.after)];
    let added = added.map(|(key, token)| (key.to_string(), Meta::Bool(token.is_some())));
    Ok(numbered.chain(added).collect())
}

/// The `tokenizer_config.json` of a model directory; null if there is none.
fn read_settings(dir: &Path) -> Result<Value, GgufError> {
    let path = dir.join("tokenizer_config.json");
    let Some(content) = read_existing(&path, LARGEST_CONFIG)? else { return Ok(Value::Null) };
    serde_json::from_slice(&content).map_err(|error| {
        let reason = format!("its tokenizer_config.json: {error}");
        GgufError::Unsupported { path: dir.into(), reason }
    })
}

/// The chat template: of its own file, which newer models have, or of the settings, where the one
/// named `default` stands for all, or of a processor's file.
fn chat_template(dir: &Path, settings: &Value) -> Result<Option<String>, GgufError> {
    if let Some(content) = read_existing(dir.join("chat_template.jinja"), LARGEST_CONFIG)? {
        return Ok(String::from_utf8(content).ok());
    }
    let template = match &settings["chat_template"] {
        Value::Array(named) => {
            let default = named.iter().find(|template| template["name"] == "default");
            default.and_then(|template| template["template"].as_str())
        }
        template => template.as_str(),
    };
    if let Some(template) = template {
        return Ok(Some(template.into()));
    }
    let of_processor = read_existing(dir.join("chat_template.json"), LARGEST_CONFIG)?;
    let of_processor = of_processor.and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    Ok(of_processor.and_then(|json| json["chat_template"].as_str().map(String::from)))
}
