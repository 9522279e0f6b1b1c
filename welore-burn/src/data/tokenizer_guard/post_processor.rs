//! What adds special tokens around a text.

use serde_json::{Map, Value};
use tokenizers::PostProcessorWrapper;

use super::{Fault, MAX_DEPTH, MAX_STEPS, read_as};

const PART: &str = "post-processor";

/// The most pieces of a template, and tokens that they add.
const MAX_PIECES: usize = 64;
const MAX_TOKENS: usize = 1024;

/// Reads it.
///
/// # Errors
///
/// [`Fault`].
pub(super) fn read(value: Value) -> Result<PostProcessorWrapper, Fault> {
    let mut seen = Seen::default();
    check(&value, 0, &mut seen)?;
    // A template makes several texts of one, which a second one would not expect.
    if seen.adding > 1 {
        return Err(Fault::of(PART, "more than one of its steps adds tokens"));
    }
    if seen.steps > MAX_STEPS {
        return Err(Fault::of(PART, format!("it has more than {MAX_STEPS} steps")));
    }
    read_as(PART, value)
}

#[derive(Default)]
struct Seen {
    steps: usize,
    /// Those that add tokens.
    adding: usize,
}

/// Goes by the fields, since the crate does not look at types here.
fn check(value: &Value, depth: usize, seen: &mut Seen) -> Result<(), Fault> {
    let Value::Object(fields) = value else {
        return Err(Fault::of(PART, "a step is not an object"));
    };
    if depth > MAX_DEPTH {
        return Err(Fault::of(PART, "its sequences are nested too deeply"));
    }
    seen.steps += 1;
    if ["single", "cls", "sep"].iter().any(|name| fields.contains_key(*name)) {
        seen.adding += 1;
    }
    if let Some(single) = fields.get("single") {
        check_template(single, fields)?;
    }
    let inner = fields.get("processors").and_then(Value::as_array);
    inner.into_iter().flatten().try_for_each(|step| check(step, depth + 1, seen))
}

/// Each text appears once in a template for one text, and each special token is known.
fn check_template(single: &Value, fields: &Map<String, Value>) -> Result<(), Fault> {
    let pieces = single.as_array().map(Vec::as_slice).unwrap_or_default();
    if pieces.len() > MAX_PIECES {
        return Err(Fault::of(PART, format!("its template has more than {MAX_PIECES} pieces")));
    }
    let (mut texts, mut added) = (0, 0);
    for piece in pieces {
        if let Some(text) = piece.get("Sequence") {
            texts += 1;
            if text.get("id").and_then(Value::as_str) != Some("A") {
                return Err(Fault::of(PART, "its template for one text names a second one"));
            }
        } else if let Some(token) = piece.get("SpecialToken") {
            let name = token.get("id").and_then(Value::as_str).unwrap_or_default();
            let known = fields.get("special_tokens").and_then(|known| known.get(name));
            let count = |list: &str| Some(known?.get(list)?.as_array()?.len());
            match (count("ids"), count("tokens")) {
                (Some(ids), Some(tokens)) if ids == tokens => added += ids,
                _ => return Err(Fault::of(PART, "its template has an unknown special token")),
            }
        }
    }
    if texts > 1 {
        return Err(Fault::of(PART, "its template repeats the text"));
    }
    if added > MAX_TOKENS {
        return Err(Fault::of(PART, format!("its template adds more than {MAX_TOKENS} tokens")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(id: &str) -> Value {
        json!({ "Sequence": { "id": id, "type_id": 0 } })
    }

    fn token(id: &str) -> Value {
        json!({ "SpecialToken": { "id": id, "type_id": 0 } })
    }

    fn template(single: Vec<Value>) -> Value {
        json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": [text("A"), text("B")],
            "special_tokens": { "<s>": { "id": "<s>", "ids": [1], "tokens": ["<s>"] } },
        })
    }

    fn sequence(processors: Vec<Value>) -> Value {
        json!({ "type": "Sequence", "processors": processors })
    }

    #[test]
    fn usual_ones_pass() {
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false });
        let bos = template(vec![token("<s>"), text("A")]);
        for value in [bos.clone(), bytes.clone(), sequence(vec![bytes, bos])] {
            read(value).unwrap();
        }
    }

    #[test]
    fn what_would_panic_or_multiply_is_refused() {
        let bos = template(vec![token("<s>"), text("A")]);
        let nested = (0..=MAX_DEPTH).fold(bos.clone(), |inner, _| sequence(vec![inner]));
        for (value, problem) in [
            (template(vec![text("A"), text("A")]), "repeats the text"),
            (template(vec![text("B")]), "second one"),
            (template(vec![token("<x>"), text("A")]), "unknown special token"),
            (template(vec![token("<s>"); MAX_PIECES + 1]), "pieces"),
            (sequence(vec![bos.clone(), bos]), "more than one"),
            (nested, "nested"),
            (sequence(vec![json!(1)]), "not an object"),
            (json!({ "type": "Unheard" }), "did not match"),
        ] {
            let message = read(value).unwrap_err().to_string();
            assert!(message.contains(problem), "{message} instead of {problem}");
        }
    }
}
