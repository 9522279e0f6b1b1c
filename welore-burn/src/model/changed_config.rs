//! Texts of `config.json` with one thing changed.

use serde_json::{Map, Value};

use super::config_error::ConfigError;
use crate::artifact::in_words;
use crate::checkpoint::forget_scales;
use crate::forms::Precision;

/// The fields of a `config.json` that state the type of its weights: transformers 5 writes the first,
/// and earlier versions the second, which all of them read.
const FIELDS: [&str; 2] = ["dtype", "torch_dtype"];

/// The text of a Hugging Face `config.json`, changed to state that weights are stored in a type.
/// Everything else stays.
///
/// # Errors
///
/// [`ConfigError::Json`] if it is not a JSON object.
pub fn with_stored_type(text: &str, precision: Precision) -> Result<String, ConfigError> {
    let mut config: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| ConfigError::Json(in_words(&error)))?;
    let stated: Vec<&str> =
        FIELDS.into_iter().filter(|field| config.contains_key(*field)).collect();
    forget_scales(&mut config);
    let fields = if stated.is_empty() { vec![FIELDS[1]] } else { stated };
    for field in fields {
        config.insert(field.into(), precision.torch_name().into());
    }
    Ok(format!("{:#}\n", Value::Object(config)))
}

/// The text of a Hugging Face `config.json`, changed to state the width of the MLP of each layer, as one
/// number if all have the same. Everything else stays.
///
/// # Errors
///
/// [`ConfigError::Json`] if it is not a JSON object.
pub fn with_mlp_widths(text: &str, widths: &[usize]) -> Result<String, ConfigError> {
    let mut config: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| ConfigError::Json(in_words(&error)))?;
    let value: Value = match widths {
        [first, rest @ ..] if rest.iter().all(|width| width == first) => (*first).into(),
        widths => widths.into(),
    };
    forget_scales(&mut config);
    config.insert("intermediate_size".into(), value);
    Ok(format!("{:#}\n", Value::Object(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_stated_where_it_was_stated_and_nothing_else_changes() {
        let changed = |text: &str| -> Value {
            serde_json::from_str(&with_stored_type(text, Precision::Bf16).unwrap()).unwrap()
        };
        for (before, after) in [
            (r#"{"a": 1e-05, "dtype": "float32"}"#, r#"{"a": 1e-05, "dtype": "bfloat16"}"#),
            (r#"{"torch_dtype": null, "b": [{}]}"#, r#"{"torch_dtype": "bfloat16", "b": [{}]}"#),
            ("{}", r#"{"torch_dtype": "bfloat16"}"#),
            (
                r#"{"dtype": "float16", "torch_dtype": "float16"}"#,
                r#"{"dtype": "bfloat16", "torch_dtype": "bfloat16"}"#,
            ),
        ] {
            assert_eq!(changed(before), serde_json::from_str::<Value>(after).unwrap(), "{before}");
        }
        assert!(with_stored_type("[]", Precision::F32).is_err());
    }

    #[test]
    fn widths_are_a_list_only_where_they_differ() {
        let changed = |widths: &[usize]| -> Value {
            let text = with_mlp_widths(r#"{"a": 1e-05, "intermediate_size": 9}"#, widths);
            serde_json::from_str(&text.unwrap()).unwrap()
        };
        assert_eq!(changed(&[4, 4]), serde_json::json!({ "a": 1e-5, "intermediate_size": 4 }));
        assert_eq!(changed(&[4, 2]), serde_json::json!({ "a": 1e-5, "intermediate_size": [4, 2] }));
        assert!(with_mlp_widths("[]", &[1]).is_err());
    }
}
