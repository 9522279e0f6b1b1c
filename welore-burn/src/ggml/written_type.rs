use super::tensor_type::TensorType;
use crate::named::Named;

/// The type of a tensor in a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum WrittenType {
    /// A type that any numbers can be rounded to.
    Rounded(TensorType),
    /// MXFP4: numbers of 4 bits, of which 32 share an exponent. Nothing is rounded to it: a model that
    /// has such blocks gives them as they are.
    Mxfp4,
}

/// Entries of a block of MXFP4, and its bytes: an exponent, and two entries in a byte.
const MXFP4_BLOCK: (usize, usize) = (32, 17);

impl WrittenType {
    /// The name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rounded(dtype) => Named::name(&dtype),
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// The type that numbers are rounded to, if they are.
    pub fn rounded(self) -> Option<TensorType> {
        match self {
            Self::Rounded(dtype) => Some(dtype),
            Self::Mxfp4 => None,
        }
    }

    /// Its number in files, ggml's `ggml_type`.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Rounded(dtype) => dtype.code(),
            Self::Mxfp4 => 39,
        }
    }

    /// Number of entries in a block; 1 for floats. Rows are whole blocks.
    pub fn block_len(self) -> usize {
        match self {
            Self::Rounded(dtype) => dtype.block_len(),
            Self::Mxfp4 => MXFP4_BLOCK.0,
        }
    }

    /// Number of bytes of a row; `None` if the row does not fill blocks.
    pub fn row_bytes(self, columns: usize) -> Option<usize> {
        let (len, bytes) = MXFP4_BLOCK;
        match self {
            Self::Rounded(dtype) => dtype.row_bytes(columns),
            Self::Mxfp4 => columns.is_multiple_of(len).then(|| columns / len * bytes),
        }
    }

    /// Whether entries are stored as floats, each for itself.
    pub fn is_float(self) -> bool {
        self.rounded().is_some_and(TensorType::is_float)
    }
}

impl From<TensorType> for WrittenType {
    fn from(dtype: TensorType) -> Self {
        Self::Rounded(dtype)
    }
}

impl PartialEq<TensorType> for WrittenType {
    fn eq(&self, other: &TensorType) -> bool {
        self.rounded() == Some(*other)
    }
}
