use std::fmt;

use crate::words::number_of;

/// Something unusual about a checkpoint that was put right when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remark {
    /// The names of its tensors begin otherwise than the model's. What is written from it has the
    /// model's names.
    Renamed {
        /// The beginning in the files.
        from: String,
        /// The beginning in the model; empty if it has none.
        to: String,
    },
    /// It has tensors that are no parameters, and are computed where they are needed.
    Ignored {
        /// How many.
        tensors: usize,
        /// The first of them.
        first: String,
    },
    /// It is of a model of more than text, of which only the text is used.
    TextAlone {
        /// How many tensors are of other parts.
        tensors: usize,
    },
    /// It has the matrices of experts one above the other.
    Unstacked {
        /// How many tensors of them.
        tensors: usize,
    },
    /// It has convolutions, whose weights are read as matrices because that was asked for.
    Convolutions {
        /// How many.
        tensors: usize,
    },
    /// It has numbers of 8 bits with scales.
    Scaled {
        /// How many tensors of them.
        tensors: usize,
    },
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Renamed { from, to } if to.is_empty() => {
                write!(f, "the names of tensors are read without `{from}`, and written without it")
            }
            Self::Renamed { from, to } if from.is_empty() => {
                write!(f, "the names of tensors are read with `{to}` before them, and written so")
            }
            Self::Renamed { from, to } => write!(
                f,
                "the names of tensors are read with `{to}` in the place of `{from}`, and written so"
            ),
            Self::Ignored { tensors, first } => write!(
                f,
                "{} such as `{first}` left out: what they hold is computed",
                number_of(*tensors, "buffer")
            ),
            Self::TextAlone { tensors } => write!(
                f,
                "only the text of the model is used, without {} of other parts",
                number_of(*tensors, "tensor")
            ),
            Self::Unstacked { tensors } => write!(
                f,
                "{} of all experts of a layer: read as a matrix for each expert",
                number_of(*tensors, "tensor")
            ),
            Self::Convolutions { tensors } => write!(
                f,
                "{} read as matrices, which is right for those without groups: a file does not say \
                 which have some",
                number_of(*tensors, "convolution")
            ),
            Self::Scaled { tensors } => write!(
                f,
                "{} in F8_E4M3 with scales: read, and written, as BF16",
                number_of(*tensors, "tensor")
            ),
        }
    }
}
