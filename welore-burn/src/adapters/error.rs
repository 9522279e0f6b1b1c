use std::fmt;
use std::path::PathBuf;

use safetensors::Dtype;

use crate::escape::shortened;
use crate::files::{FileError, OutputDir};
use crate::linalg::LinalgError;
use crate::modules::MatrixName;
use crate::words::number_of;

/// Why an adapter cannot be read, written or applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// A file cannot be read or written, or the output path is not free.
    #[error("{0}")]
    File(#[from] FileError),
    /// A directory has no adapter.
    #[error("{path}: no such file, so its directory is no PEFT adapter", path = path.display())]
    Missing {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A file is broken.
    #[error("{path}: {reason}", path = path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The adapter changes a model in a way that is not computed here.
    #[error("{path}: {refusal}", path = path.display())]
    Refused {
        /// The file that says so.
        path: PathBuf,
        /// The way.
        refusal: Refusal,
    },
    /// The numbers for a matrix are unusable.
    #[error("{path}: `{matrix}`: {problem}", path = path.display())]
    Matrix {
        /// The file.
        path: PathBuf,
        /// The matrix.
        matrix: MatrixName,
        /// What is wrong.
        problem: LoraProblem,
    },
    /// The model has no such matrix.
    #[error(
        "the adapter changes `{matrix}`, which is no matrix of this model{}",
        similar_to(similar)
    )]
    Unknown {
        /// The matrix.
        matrix: MatrixName,
        /// The matrix of the model with the most similar name.
        similar: Option<MatrixName>,
    },
    /// The matrix of the model has another size.
    #[error("the adapter is for a matrix `{matrix}` of {adapted:?}, but the model's has {shape:?}")]
    Shape {
        /// The matrix.
        matrix: MatrixName,
        /// `[out, in]` of the adapter.
        adapted: [usize; 2],
        /// `[out, in]` of the model.
        shape: [usize; 2],
    },
    /// Two matrices of the adapter are for one of the model, which has another name in its files.
    #[error("the adapter changes `{matrix}` twice, by two names")]
    Twice {
        /// The matrix.
        matrix: MatrixName,
    },
    /// The matrix of the model is in blocks, to which nothing can be added.
    #[error("`{matrix}` is in llama.cpp's blocks, to which no adapter can be added")]
    Packed {
        /// The matrix.
        matrix: MatrixName,
    },
    /// The sum of a matrix and its adapter is beyond f64.
    #[error("`{matrix}` with its adapter: {problem}")]
    Sum {
        /// The matrix.
        matrix: MatrixName,
        /// What is wrong.
        problem: LoraProblem,
    },
    /// The sum of a matrix and its adapter is beyond the type of the matrix.
    #[error("`{matrix}` with its adapter has entries that its type cannot hold")]
    Overflow {
        /// The matrix.
        matrix: MatrixName,
    },
    /// The matrix of the model cannot have an adapter, since its weight is quantized, or has one.
    #[error("`{matrix}` has an adapter already, or is quantized by Burn")]
    NotPlain {
        /// The matrix.
        matrix: MatrixName,
    },
}

impl AdapterError {
    /// Replaces the hidden path of the output directory by its target.
    pub fn about(self, output: &OutputDir) -> Self {
        match self {
            Self::File(error) => Self::File(output.name_target(error)),
            other => other,
        }
    }
}

fn similar_to(similar: &Option<MatrixName>) -> String {
    similar.as_ref().map(|name| format!(" (is `{name}` meant?)")).unwrap_or_default()
}

/// A way to change a model that is not computed here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Not LoRA.
    PeftType(String),
    /// DoRA, which also scales the columns of a matrix.
    Dora,
    /// Biases are trained, too: `bias` of the configuration, or `lora_bias`.
    Bias(String),
    /// Whole modules are trained as well.
    ModulesToSave(String),
    /// The tokens' vectors are trained.
    Embedding(String),
    /// The base model was changed when the adapter was made, such as by PiSSA.
    ChangedBase(String),
    /// A field of the configuration that changes what is computed.
    Field(&'static str),
    /// A tensor that belongs to no adapter of a matrix.
    Tensor(String),
    /// The matrix is in a layer that the configuration leaves out.
    Layer(MatrixName),
    /// The matrix is none of the modules that the configuration names.
    NotTargeted(MatrixName),
    /// The matrix is one of the modules that the configuration excludes.
    Excluded(MatrixName),
    /// An expression for names of matrices that is not read here, or takes too long.
    Pattern(String),
    /// A field of the configuration is of another type than PEFT's.
    Malformed {
        /// The field.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// The weights are only there as a pickle.
    Pickle,
}

/// The most characters of a text from the adapter in a message.
const LONGEST_TOLD: usize = 120;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |text| shortened(text, LONGEST_TOLD);
        match self {
            Self::PeftType(kind) => {
                write!(f, "an adapter of type `{}`; LoRA is supported", short(kind))
            }
            Self::Dora => f.write_str("a DoRA adapter (`use_dora`), which is more than a sum"),
            Self::Bias(what) => write!(f, "the adapter trains biases (`{}`)", short(what)),
            Self::ModulesToSave(what) => {
                let what = short(what);
                write!(f, "the adapter replaces whole modules (`modules_to_save`), as in `{what}`")
            }
            Self::Embedding(what) => {
                write!(f, "the adapter trains the vectors of tokens, as in `{}`", short(what))
            }
            Self::ChangedBase(how) => write!(
                f,
                "`init_lora_weights` is \"{}\": the adapter belongs to a base model that was \
                 changed with it",
                short(how)
            ),
            Self::Field(field) => write!(f, "`{field}` is set, which is not supported"),
            Self::Tensor(tensor) => {
                write!(f, "tensor `{}` is no part of a LoRA adapter", short(tensor))
            }
            Self::Layer(name) => {
                write!(f, "`{name}` is in no layer of `layers_to_transform`")
            }
            Self::NotTargeted(name) => write!(f, "`{name}` is none of `target_modules`"),
            Self::Excluded(name) => write!(f, "`{name}` is one of `exclude_modules`"),
            Self::Pattern(pattern) => {
                write!(f, "`{}` is a regular expression that is not read here", short(pattern))
            }
            Self::Malformed { field, expected } => write!(f, "`{field}` has to be {expected}"),
            Self::Pickle => f.write_str(
                "a pickle, which can run code when it is read; safetensors are supported",
            ),
        }
    }
}

/// What is wrong with the numbers of an adapter for a matrix.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LoraProblem {
    /// One of the two matrices is missing.
    #[error("it has no `{0}`")]
    Half(&'static str),
    /// A tensor has a type that is not supported.
    #[error("`{tensor}` is {dtype}; F32, F16, BF16 and F64 are supported")]
    Dtype {
        /// `lora_A` or `lora_B`.
        tensor: &'static str,
        /// Its type.
        dtype: Dtype,
    },
    /// A tensor is no matrix, or has no entries.
    #[error("`{tensor}` has shape {shape:?}, but must be a matrix with entries")]
    NotMatrix {
        /// `lora_A` or `lora_B`.
        tensor: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The matrices do not fit each other.
    #[error("`lora_A` has {}, but `lora_B` {}", number_of(*a, "row"), number_of(*b, "column"))]
    Rank {
        /// Rows of the first one.
        a: usize,
        /// Columns of the second one.
        b: usize,
    },
    /// It has another rank than the configuration says.
    #[error("it has rank {found}, but the configuration says {stated}")]
    OtherRank {
        /// The rank of the tensors.
        found: usize,
        /// The rank in the configuration.
        stated: usize,
    },
    /// The number of entries is not that of the shape.
    #[error("there are {} for {shape:?}", number_of(*entries, "number"))]
    Length {
        /// The entries.
        entries: usize,
        /// Rows and columns.
        shape: [usize; 2],
    },
    /// An entry is infinite or not a number, or does not fit f32.
    #[error("`{tensor}` holds {value} at flat index {index}")]
    NotFinite {
        /// `lora_A` or `lora_B`.
        tensor: &'static str,
        /// Position in row-major order.
        index: usize,
        /// The entry.
        value: f64,
    },
    /// The scale is infinite or not a number.
    #[error("its scale is {0}")]
    Scale(f64),
    /// The product overflows.
    #[error("{0}")]
    Product(#[from] LinalgError),
}
