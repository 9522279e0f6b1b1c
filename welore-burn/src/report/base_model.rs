//! What a card says of the base model: its name, its licence, and metadata of both.

/// The last part of a base model's name.
pub(super) fn name_of(base: &str) -> &str {
    base.rsplit('/').find(|part| !part.is_empty()).unwrap_or(base)
}

/// The metadata on the licence and the base model.
pub(super) fn metadata_of(base: &str, base_card: Option<&str>) -> String {
    let mut lines = licence_of(base_card).join("\n");
    if !lines.is_empty() {
        lines.push('\n');
    }
    if is_hub_id(base) {
        lines.push_str(&format!("base_model: {base}\n"));
    }
    lines
}

/// The lines of the base model's card that state its licence.
pub(super) fn licence_of(base_card: Option<&str>) -> Vec<&str> {
    let Some(rest) = base_card.and_then(|card| card.strip_prefix("---\n")) else {
        return Vec::new();
    };
    let metadata = rest.split("\n---").next().unwrap_or_default();
    let plain = |value: &str| {
        !value.is_empty()
            && value.chars().all(|c| c.is_ascii_alphanumeric() || "-._:/ ".contains(c))
    };
    let is_licence = |line: &&str| {
        let keys = ["license", "license_name", "license_link"];
        line.split_once(": ").is_some_and(|(key, value)| keys.contains(&key) && plain(value))
    };
    metadata.lines().filter(is_licence).collect()
}

/// Where a reader finds the licence.
pub(super) fn where_stated(licence: &[&str]) -> &'static str {
    match licence.is_empty() {
        true => " (it was not stated next to the weights that this was made from)",
        false => "; see above and the licence files in this directory",
    }
}

/// Whether this has the form `owner/name`.
fn is_hub_id(base: &str) -> bool {
    let parts: Vec<&str> = base.split('/').collect();
    let plain = |part: &&str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
    };
    parts.len() == 2 && parts.iter().all(plain)
}
