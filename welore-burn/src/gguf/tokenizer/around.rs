//! The tokens that a tokenizer adds before and after a text.

use serde_json::Value;

use super::steps;

/// The tokens that the post-processor of a `tokenizer.json` adds before and after a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Around {
    pub before: Option<u32>,
    pub after: Option<u32>,
}

impl Around {
    /// # Errors
    ///
    /// What llama.cpp cannot do: it adds at most one token on each side.
    pub fn read(post_processor: &Value) -> Result<Self, String> {
        let mut around = Self::default();
        for step in steps(post_processor, "processors") {
            match step["type"].as_str() {
                // Reports other offsets.
                Some("ByteLevel") => {}
                Some("TemplateProcessing") => around = Self::of_template(step)?,
                other => {
                    let kind = other.unwrap_or("no type");
                    return Err(format!("its post-processor has a step of {kind}"));
                }
            }
        }
        Ok(around)
    }

    fn of_template(step: &Value) -> Result<Self, String> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut is_after = false;
        for piece in step["single"].as_array().into_iter().flatten() {
            match piece["SpecialToken"]["id"].as_str() {
                None => is_after = true,
                Some(token) => {
                    let ids = step["special_tokens"][token]["ids"].as_array();
                    let ids = ids.into_iter().flatten().filter_map(Value::as_u64);
                    let side = if is_after { &mut after } else { &mut before };
                    side.extend(ids.filter_map(|id| u32::try_from(id).ok()));
                }
            }
        }
        if before.len() > 1 || after.len() > 1 {
            return Err("it adds several tokens on one side of a text".into());
        }
        Ok(Self { before: before.pop(), after: after.pop() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(single: &[&str]) -> Value {
        let piece = |name: &&str| match *name {
            "A" => json!({ "Sequence": { "id": "A", "type_id": 0 } }),
            token => json!({ "SpecialToken": { "id": token, "type_id": 0 } }),
        };
        let special = |id: u32, token: &str| json!({ "id": token, "ids": [id], "tokens": [token] });
        json!({
            "type": "TemplateProcessing",
            "single": single.iter().map(piece).collect::<Vec<Value>>(),
            "pair": [],
            "special_tokens": { "<s>": special(1, "<s>"), "</s>": special(2, "</s>") },
        })
    }

    #[test]
    fn tokens_on_both_sides_are_found() {
        let read = |value: &Value| Around::read(value).unwrap();
        assert_eq!(read(&Value::Null), Around::default());
        let both = Around { before: Some(1), after: Some(2) };
        assert_eq!(read(&template(&["<s>", "A", "</s>"])), both);
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false });
        let nested = json!({ "type": "Sequence", "processors": [bytes, template(&["<s>", "A"])] });
        assert_eq!(read(&nested), Around { before: Some(1), after: None });
    }

    #[test]
    fn what_llama_cpp_does_not_add_is_refused() {
        assert!(Around::read(&template(&["<s>", "<s>", "A"])).unwrap_err().contains("several"));
        let bert = json!({ "type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1] });
        assert!(Around::read(&bert).unwrap_err().contains("BertProcessing"));
    }
}
