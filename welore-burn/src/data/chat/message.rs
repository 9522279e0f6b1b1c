use std::path::Path;

use minijinja::Value;
use minijinja::value::ValueKind;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::documents::reason_of;
use super::super::text::DataError;
use crate::artifact::in_words;

/// A message of a conversation, with all that a template may read of it.
#[derive(Debug, Clone)]
pub struct Message {
    role: String,
    fields: Value,
}

impl Message {
    /// A message of a text.
    pub fn new(role: &str, content: &str) -> Self {
        let fields = Value::from_pairs([("role", role), ("content", content)]);
        Self { role: role.into(), fields }
    }

    /// Who wrote it: `system`, `user`, `assistant`, or another role that templates know.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// Whether the model wrote it.
    pub fn is_answer(&self) -> bool {
        self.role == "assistant"
    }

    pub(super) fn fields(&self) -> &Value {
        &self.fields
    }

    /// A message in JSON: `role` and `content`, or `from` and `value` as in files of ShareGPT, which have other
    /// names for the roles. Fields that are null are left out, as transformers does.
    fn read(value: &Value) -> Result<Self, String> {
        if value.kind() != ValueKind::Map {
            return Err("a message is not an object".into());
        }
        let text_of = |name: &str| value.get_attr(name).ok()?.as_str().map(String::from);
        if let (None, Some(from)) = (text_of("role"), text_of("from")) {
            let content = text_of("value").ok_or("a message has no `value`")?;
            return Ok(Self::new(usual_role(&from), &content));
        }
        let role = text_of("role").ok_or("a message has no `role`")?;
        let keys = value.try_iter().map_err(|error| error.to_string())?;
        let pair = |key: Value| Some((key.clone(), value.get_item(&key).ok()?));
        let pairs = keys.filter_map(pair).filter(|(_, value)| !value.is_none());
        // Templates know what the assistant thought by one of these names.
        let thought = THOUGHTS.iter().find_map(|name| {
            value.get_attr(name).ok().filter(|found| !found.is_none() && !found.is_undefined())
        });
        let thoughts = thought.into_iter().flat_map(|thought| {
            let usual = ["reasoning_content", "thinking"];
            let missing = usual.into_iter().filter(|name| text_of(name).is_none());
            missing.map(|name| (Value::from(name), thought.clone())).collect::<Vec<_>>()
        });
        Ok(Self { role, fields: Value::from_pairs(pairs.chain(thoughts)) })
    }
}

/// What files call the thoughts of the assistant.
const THOUGHTS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The role that templates know by another name in files of ShareGPT.
fn usual_role(name: &str) -> &str {
    match name {
        "human" => "user",
        "gpt" | "chatgpt" | "bing" | "bard" | "model" => "assistant",
        "function_response" | "observation" => "tool",
        other => other,
    }
}

/// Messages in order, and the tools that the assistant may call in them.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    /// The messages.
    pub messages: Vec<Message>,
    /// What a template is given as `tools`.
    pub(super) tools: Option<Value>,
}

/// A line of a file.
#[derive(Deserialize)]
struct Line {
    #[serde(alias = "conversations", alias = "conversation")]
    messages: Vec<Value>,
    tools: Option<Value>,
}

impl Conversation {
    /// Reads a conversation in JSON: an object with `messages` (or ShareGPT's `conversations`) and perhaps
    /// `tools`, or an array of messages.
    ///
    /// # Errors
    ///
    /// What is wrong, for a message.
    pub fn from_json(text: &str) -> Result<Self, String> {
        Self::read(text, in_words)
    }

    /// The same, with these words for what is wrong with JSON.
    fn read(text: &str, words: impl Fn(&serde_json::Error) -> String) -> Result<Self, String> {
        let not = |error: serde_json::Error| {
            let words = words(&error);
            match error.is_data() {
                true => {
                    format!("neither an object with `messages` nor a list of messages: {words}")
                }
                false => format!("not valid JSON: {words}"),
            }
        };
        let line = match text.trim_start().starts_with('[') {
            true => Line { messages: serde_json::from_str(text).map_err(not)?, tools: None },
            false => serde_json::from_str(text).map_err(not)?,
        };
        let messages: Vec<Message> =
            line.messages.iter().map(Message::read).collect::<Result<_, _>>()?;
        match messages.is_empty() {
            true => Err("it has no message".into()),
            false => Ok(Self { messages, tools: line.tools.filter(|tools| !tools.is_none()) }),
        }
    }
}

/// Whether the lines of a text are conversations: its first line has messages and no `text`.
pub(in super::super) fn is_conversations(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Probe {
        #[serde(alias = "conversations", alias = "conversation")]
        messages: Option<IgnoredAny>,
        text: Option<IgnoredAny>,
    }
    let first = text.trim_start_matches('\u{feff}').lines().find(|line| !line.trim().is_empty());
    let probe = first.and_then(|line| serde_json::from_str::<Probe>(line).ok());
    probe.is_some_and(|probe| probe.messages.is_some() && probe.text.is_none())
}

/// The conversations of a text, one a line, each with the number of its line.
pub(in super::super) fn conversations(
    path: &Path,
    text: &str,
) -> Result<Vec<(usize, Conversation)>, DataError> {
    let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| match Conversation::read(line, reason_of) {
            Ok(conversation) => Ok((number + 1, conversation)),
            Err(reason) => Err(DataError::Line { path: path.into(), line: number + 1, reason }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(text: &str) -> Vec<String> {
        let conversation = Conversation::from_json(text).unwrap();
        conversation.messages.iter().map(|message| message.role().to_string()).collect()
    }

    #[test]
    fn conversations_of_both_kinds_are_read() {
        let of_messages = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
        let of_sharegpt = r#"{"id": 1, "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}"#;
        for text in [of_messages, of_sharegpt] {
            assert!(is_conversations(&format!("\n{text}\n")), "{text}");
            assert_eq!(roles(text), ["user", "assistant"]);
        }
        assert_eq!(roles(r#"[{"role": "system", "content": "a"}]"#), ["system"]);
        assert!(!is_conversations(r#"{"text": "a"}"#));
        assert!(!is_conversations(r#"{"text": "a", "messages": []}"#));
        assert!(!is_conversations("Messages: none."));
    }

    #[test]
    fn fields_that_are_null_are_left_out_and_others_keep_their_order() {
        let text = r#"[{"role": "assistant", "z": 1, "content": null, "a": [null]}]"#;
        let conversation = Conversation::from_json(text).unwrap();
        let keys = conversation.messages[0].fields().try_iter().unwrap();
        assert_eq!(keys.map(|key| key.to_string()).collect::<Vec<_>>(), ["role", "z", "a"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refused = |text| Conversation::from_json(text).unwrap_err();
        for broken in ["", "[", "{", "[{]", "{\"messages\": [", "no"] {
            assert!(refused(broken).starts_with("not valid JSON: "), "{broken}");
        }
        for other in ["7", "{}", r#"{"messages": 7}"#] {
            let told = refused(other);
            assert!(told.starts_with("neither an object with `messages` nor a list"), "{told}");
        }
        assert!(refused(r#"{"messages": []}"#).contains("no message"));
        assert!(refused(r#"{"messages": [1]}"#).contains("not an object"));
        assert!(refused(r#"{"messages": [{"content": "a"}]}"#).contains("`role`"));
        assert!(refused(r#"{"conversations": [{"from": "human"}]}"#).contains("`value`"));
    }
}
