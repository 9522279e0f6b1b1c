//! The names of tensors in blocks: the type is part of them.

use std::sync::LazyLock;

use super::factors::{U, V};
use crate::ggml::TensorType;

/// What the tensors of a matrix in blocks of a type are called.
#[derive(Debug)]
pub(super) struct BlockNames {
    pub tensor_type: TensorType,
    /// All entries, by rows.
    pub whole: &'static str,
    /// All entries, by columns.
    pub turned: &'static str,
    /// The right factor, by its rows.
    pub right: &'static str,
    /// The left factor, by its columns.
    pub left: &'static str,
}

macro_rules! names {
    ($($variant:ident $name:literal),* $(,)?) => {
        [$(BlockNames {
            tensor_type: TensorType::$variant,
            whole: concat!("weight.", $name),
            turned: concat!("weight_t.", $name),
            right: concat!("V.weight.", $name),
            left: concat!("U.weight_t.", $name),
        }),*]
    };
}

/// The types that stay packed.
pub(super) static NAMES: [BlockNames; 14] = names![
    F16 "f16",
    Bf16 "bf16",
    Q8_0 "q8_0",
    Q6K "q6_k",
    Q5K "q5_k",
    Q5_1 "q5_1",
    Q5_0 "q5_0",
    Q4K "q4_k",
    Q4_1 "q4_1",
    Q4_0 "q4_0",
    Iq4Nl "iq4_nl",
    Iq4Xs "iq4_xs",
    Q3K "q3_k",
    Q2K "q2_k",
];

impl BlockNames {
    /// Those of a type; `None` for F32, which has no blocks.
    pub fn of(tensor_type: TensorType) -> Option<&'static Self> {
        NAMES.iter().find(|names| names.tensor_type == tensor_type)
    }

    fn all(&self) -> [&'static str; 4] {
        [self.whole, self.turned, self.right, self.left]
    }
}

/// The type of a tensor whose name ends with one of these suffixes, after a dot or as a whole.
pub(super) fn type_in(tensor: &str) -> Option<TensorType> {
    let ends = |suffix: &str| {
        let name = tensor.strip_suffix(suffix);
        name.is_some_and(|name| name.is_empty() || name.ends_with('.'))
    };
    NAMES.iter().find(|names| names.all().iter().any(|of| ends(of))).map(|of| of.tensor_type)
}

/// The tensors of one that has all its entries in blocks, whichever it is.
pub(super) fn sets_of_blocks() -> Vec<Vec<&'static str>> {
    NAMES.iter().flat_map(|names| [vec![names.whole], vec![names.turned]]).collect()
}

/// The tensors of two factors of numbers on a base in blocks, any of which may be the first in a file.
pub(super) fn sets_of_based() -> Vec<Vec<&'static str>> {
    let bases = NAMES.iter().flat_map(|names| [names.whole, names.turned]);
    bases.flat_map(|base| [vec![V, U, base], vec![base, V, U]]).collect()
}

/// The tensors of two factors in blocks, with and without a base.
pub(super) fn sets_of_factors() -> Vec<Vec<&'static str>> {
    static SETS: LazyLock<Vec<Vec<&'static str>>> = LazyLock::new(|| {
        let factors = || NAMES.iter().map(|names| [names.right, names.left]);
        let alone = factors().map(|pair| pair.to_vec());
        let based = sets_of_blocks().into_iter().flat_map(|base| {
            factors().map(move |pair| [&base[..], &pair].concat()).collect::<Vec<_>>()
        });
        alone.chain(based).collect()
    });
    SETS.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::named::Named;

    #[test]
    fn every_type_but_f32_has_names_that_end_with_its_own() {
        for tensor_type in TensorType::all() {
            match (tensor_type, BlockNames::of(*tensor_type)) {
                (TensorType::F32, names) => assert!(names.is_none()),
                (other, names) => {
                    for name in names.unwrap().all() {
                        assert!(name.ends_with(&format!(".{}", other.name())), "{name}");
                        assert_eq!(type_in(&format!("model.{name}")), Some(*other));
                        assert_eq!(type_in(name), Some(*other));
                    }
                    let names = names.unwrap();
                    for name in [names.whole, names.turned] {
                        assert_eq!(type_in(&format!("model{name}")), None);
                    }
                }
            }
        }
    }
}
