//! Names of compressed models in tables, on pages and beside progress.

use std::path::Path;

use welore_burn::plan::Target;
use welore_burn::spectrum::Method;

use super::card;
use crate::format;

/// A target in a few words.
pub fn of_target(target: &Target) -> String {
    match target {
        Target::KeepParams(share) => format!("keep {share}"),
        Target::MaxBytes(bytes) => format!("at most {}", format::bytes(*bytes)),
        target => target.to_string(),
    }
}

/// A norm in one word, as it is called in spectra and plans.
pub fn of_norm(method: Method) -> &'static str {
    match method {
        Method::Whitened => "inputs",
        Method::TwoSided => "loss",
        _ => "weights",
    }
}

/// A model as a page shows it that was typed somewhere: the directories that it is in are private.
pub fn of_model(typed: &str) -> String {
    let path = Path::new(typed);
    // An id of the Hub has one slash.
    let is_path =
        path.is_absolute() || typed.starts_with('.') || typed.matches(['/', '\\']).count() > 1;
    match path.file_name() {
        Some(name) if is_path => name.to_string_lossy().into_owned(),
        _ => card::name_of(typed),
    }
}
