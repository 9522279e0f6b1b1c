//! Special tokens, which templates know by names such as `bos_token`.

use std::path::Path;

use minijinja::Value;
use serde_json::{Map, Value as Json};

use super::error::ChatError;
use crate::artifact::in_words;
use crate::files::{LARGEST_CONFIG, read_existing};

/// A JSON object of a model directory; empty if there is no such file.
pub(super) fn object_of(path: &Path) -> Result<Map<String, Json>, ChatError> {
    let Some(content) = read_existing(path, LARGEST_CONFIG)? else { return Ok(Map::new()) };
    serde_json::from_slice(&content)
        .map_err(|error| ChatError::Malformed { path: path.into(), reason: in_words(&error) })
}

/// The names and texts of special tokens, as `tokenizer_config.json` and, for what that lacks,
/// `special_tokens_map.json` state them.
pub(super) fn special_tokens(
    settings: &Map<String, Json>,
    dir: &Path,
) -> Result<Vec<(String, Value)>, ChatError> {
    let mut found = named_tokens(settings);
    for (name, token) in named_tokens(&object_of(&dir.join("special_tokens_map.json"))?) {
        if found.iter().all(|(known, _)| *known != name) {
            found.push((name, token));
        }
    }
    Ok(found)
}

fn named_tokens(object: &Map<String, Json>) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, value) in object {
        match value {
            // Newer files have the tokens of one model in an object of their own.
            Json::Object(more) if name == "extra_special_tokens" => {
                found.extend(named_tokens(more));
            }
            Json::Array(all) if name == "additional_special_tokens" => {
                let tokens = all.iter().filter_map(text_of).map(Value::from);
                found.push((name.clone(), tokens.collect()));
            }
            value if name.ends_with("_token") => {
                found.extend(text_of(value).map(|text| (name.clone(), Value::from(text))));
            }
            _ => {}
        }
    }
    found
}

/// A token as text, or as an object that says more about it.
fn text_of(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}
