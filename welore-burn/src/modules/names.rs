use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of a weight matrix: the name of its tensor in a Hugging Face checkpoint without
/// `.weight`, such as `model.layers.3.self_attn.q_proj`.
///
/// The matrix of a module that is a single layer has an empty name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MatrixName(String);

impl MatrixName {
    /// A matrix of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The matrix whose weight has this tensor name, or this path in a module; `None` if it is not
    /// a weight.
    pub fn of_weight(tensor: &str) -> Option<Self> {
        let name = tensor.strip_suffix(WEIGHT)?;
        match name.strip_suffix('.') {
            Some(name) => Some(Self(name.into())),
            None => name.is_empty().then(|| Self(String::new())),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part of the name, such as `q_proj`: what kind of matrix it is in a model whose layers
    /// are alike.
    pub fn kind(&self) -> &str {
        self.0.rsplit('.').next().unwrap_or_default()
    }

    /// Whether it is a matrix of one of several experts, of which a token sees only some: one part of the
    /// name is `experts`.
    pub fn is_of_expert(&self) -> bool {
        self.0.split('.').any(|part| part == "experts")
    }

    /// The tensor name of the dense weight, which is also its path in a module: `NAME.weight`.
    pub fn weight(&self) -> String {
        self.part(WEIGHT)
    }

    /// The name of a part of the matrix: `NAME.PART`.
    pub fn part(&self, part: &str) -> String {
        match self.0.is_empty() {
            true => part.into(),
            false => format!("{}.{part}", self.0),
        }
    }
}

const WEIGHT: &str = "weight";

impl fmt::Display for MatrixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(if self.0.is_empty() { WEIGHT } else { &self.0 })
    }
}

impl AsRef<str> for MatrixName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for MatrixName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for MatrixName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for MatrixName {
    fn from(name: String) -> Self {
        Self(name)
    }
}

impl PartialEq<str> for MatrixName {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for MatrixName {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

/// Compares names, with numbers in them as numbers, so that layer 2 comes before layer 10. A total
/// order for any names: in each part, numbers come before words.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    natural_key(a).cmp(natural_key(b)).then_with(|| a.cmp(b))
}

/// The parts of a name that [`natural_order`] compares: numbers and words.
pub(crate) fn natural_key(name: &str) -> impl Iterator<Item = Result<u64, &str>> {
    name.split('.').map(|part| part.parse::<u64>().map_err(|_| part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_weight_lead_to_each_other() {
        for (name, weight) in [("a.b", "a.b.weight"), ("", "weight"), ("weight", "weight.weight")] {
            assert_eq!(MatrixName::new(name).weight(), weight);
            assert_eq!(MatrixName::of_weight(weight).unwrap(), name);
        }
        for other in ["a.bias", "a.weights", "aweight", ""] {
            assert_eq!(MatrixName::of_weight(other), None, "{other}");
        }
    }
}
