//! What can be wrong with a `config.json`, and checks of single values.

use crate::escape::shortened;

/// A `config.json` that does not describe a supported model.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("not a model configuration: {0}")]
    Json(String),
    /// An unknown architecture.
    #[error("model_type `{model_type}` is not supported; {others}", others = of_others(*known, nearest))]
    Architecture {
        /// The architecture.
        model_type: String,
        /// The number of supported ones, which [`model_types`](super::model_types) lists.
        known: usize,
        /// Those of them that are named alike, each with its best-known models.
        nearest: Vec<String>,
    },
    /// The configuration of a compressed directory does not say what model it is.
    #[error(
        "model_type `{}` is that of a compressed directory, but its `welore.base` {problem}",
        shortened(model_type, LONGEST_TYPE)
    )]
    LostBase {
        /// The `model_type` that it has.
        model_type: String,
        /// What is wrong with `welore.base`, such as `is missing`.
        problem: &'static str,
    },
    /// A variant that is not implemented.
    #[error("`{field}`: {value} is not supported, only {supported}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What is supported.
        supported: &'static str,
    },
    /// An invalid value.
    #[error("`{field}`: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// The most characters of a `model_type` in a message.
const LONGEST_TYPE: usize = 64;

/// How many architectures are supported, and which of them are named alike.
fn of_others(known: usize, nearest: &[String]) -> String {
    match nearest {
        [] => format!("{known} others are"),
        [one] => format!("{known} others are, of which {one} is nearest"),
        [some @ .., last] => {
            format!("{known} others are, of which {} and {last} are nearest", some.join(", "))
        }
    }
}

pub(super) fn check_count(
    field: &'static str,
    count: usize,
    most: usize,
) -> Result<(), ConfigError> {
    match (1..=most).contains(&count) {
        true => Ok(()),
        false => Err(invalid(field, format!("{count} is not between 1 and {most}"))),
    }
}

/// Refuses a flag that is set. `supported` says what it stands against.
pub(super) fn check_unset(
    field: &'static str,
    flag: Option<bool>,
    supported: &'static str,
) -> Result<(), ConfigError> {
    match flag {
        Some(true) => Err(unsupported(field, "true", supported)),
        _ => Ok(()),
    }
}

pub(super) fn unsupported(
    field: &'static str,
    value: impl Into<String>,
    supported: &'static str,
) -> ConfigError {
    ConfigError::Unsupported { field, value: value.into(), supported }
}

pub(super) fn invalid(field: &'static str, reason: String) -> ConfigError {
    ConfigError::Invalid { field, reason }
}

pub(super) fn positive(field: &'static str, value: f64) -> Result<f64, ConfigError> {
    if value.is_finite() && value > 0.0 {
        Ok(value)
    } else {
        Err(invalid(field, format!("{value} is not a positive number")))
    }
}
