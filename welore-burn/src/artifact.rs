//! The fields that every JSON artifact starts with.

use serde::Deserialize;

/// The fields that identify a file before the rest of it is parsed.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Header {
    pub format: String,
    pub version: u32,
}

impl Header {
    /// Reads the header of a JSON text.
    pub fn of(text: &str) -> Result<Self, serde_json::Error> {
        // serde takes a list of the fields for an object.
        if text.trim_start().starts_with('[') {
            return Err(serde::de::Error::custom("it is a list, not an object"));
        }
        serde_json::from_str(text)
    }
}

/// What is wrong with a JSON text, with words where serde names types of Rust.
pub(crate) fn in_words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let Some((found, expected)) = text.rsplit_once("expected ") else { return text };
    let word = expected.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    let plain = match word {
        "usize" | "u64" => "a whole number of at least 0",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "f32" | "f64" => "a number",
        "struct" | "map" | "internally" => "an object",
        "a" if expected.starts_with("a sequence") => "a list",
        "a" if expected.starts_with("a map") => "an object",
        _ => return text,
    };
    // The place follows, at the end.
    let place = expected.rfind(" at line ").map_or("", |start| &expected[start..]);
    format!("{found}expected {plain}{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_rust_are_not_named() {
        let whole = serde_json::from_str::<usize>("-1").unwrap_err();
        let list = serde_json::from_str::<Vec<u32>>("{}").unwrap_err();
        let object = serde_json::from_str::<Header>("7").unwrap_err();
        assert_eq!(
            in_words(&whole),
            "invalid value: integer `-1`, expected a whole number of at least 0 at line 1 column 2"
        );
        assert!(in_words(&list).starts_with("invalid type: map, expected a list at line 1"));
        assert!(in_words(&object).contains("expected an object at line 1"));
        // Everything else stays as it is.
        let missing = serde_json::from_str::<bool>("maybe").unwrap_err();
        assert_eq!(in_words(&missing), missing.to_string());
    }
}
