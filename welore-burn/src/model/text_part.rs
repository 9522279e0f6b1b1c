//! Models of more than text whose text is that of a known decoder, such as LLaVA: what only runs the
//! model runs that part.

use std::path::Path;

use serde_json::Value;

use super::families::model_types;
use crate::checkpoint::base_config;

/// Fields that are beside the configuration of the text where both have a say.
const SHARED: [&str; 4] =
    ["tie_word_embeddings", "bos_token_id", "eos_token_id", "quantization_config"];

/// The `config.json` of the text of a model whose own type is not known here, but whose text is of a
/// known one. `None` for all other models.
pub(super) fn text_part(config: &str) -> Option<String> {
    let whole: Value = serde_json::from_str(config).ok()?;
    let mut text = whole.get("text_config")?.clone();
    if is_known(&whole) || !is_known(&text) {
        return None;
    }
    let fields = text.as_object_mut()?;
    for field in SHARED {
        if let Some(value) = whole.get(field) {
            fields.entry(field).or_insert_with(|| value.clone());
        }
    }
    Some(text.to_string())
}

/// The `model_type` of a model of more than text in a directory, if its text can be run.
pub(super) fn type_of_parts(dir: &Path) -> Option<String> {
    let bytes = base_config(dir).ok()??;
    let config = String::from_utf8(bytes).ok()?;
    text_part(&config)?;
    let whole: Value = serde_json::from_str(&config).ok()?;
    Some(whole.get("model_type").and_then(Value::as_str).unwrap_or("unnamed").into())
}

/// The `model_type` of the model in a directory, or of its text in a model of more than text.
pub(super) fn type_of_text(dir: &Path) -> Option<String> {
    let bytes = base_config(dir).ok()??;
    let config = String::from_utf8(bytes).ok()?;
    let config: Value = serde_json::from_str(&text_part(&config).unwrap_or(config)).ok()?;
    config.get("model_type").and_then(Value::as_str).map(String::from)
}

fn is_known(config: &Value) -> bool {
    let model_type = config.get("model_type").and_then(Value::as_str);
    model_type.is_some_and(|model_type| model_types().any(|known| known == model_type))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_of_a_model_of_parts_is_a_configuration_of_its_own() {
        let of = |config: Value| text_part(&config.to_string());
        let text = json!({ "model_type": "llama", "hidden_size": 8 });
        let whole =
            json!({ "model_type": "llava", "text_config": text, "tie_word_embeddings": true });
        let part: Value = serde_json::from_str(&of(whole).unwrap()).unwrap();
        let wanted =
            json!({ "model_type": "llama", "hidden_size": 8, "tie_word_embeddings": true });
        assert_eq!(part, wanted);
        for other in [
            json!({ "model_type": "llama", "text_config": text }),
            json!({ "model_type": "llava", "text_config": { "model_type": "bert" } }),
            json!({ "model_type": "llava", "text_config": 3 }),
            json!({ "model_type": "llava" }),
            json!([]),
        ] {
            assert_eq!(of(other), None);
        }
    }
}
