//! Names of compressed models in tables, on pages and beside progress.

use welore_burn::plan::Target;
use welore_burn::spectrum::Method;

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
