//! What becomes of the tensors of a checkpoint, piece by piece.

use std::borrow::Cow;

use safetensors::Dtype;

use super::factoring::{FactorError, Factored, Form, factor};
use super::files::FilesError;
use crate::checkpoint::{Checkpoint, CheckpointError, FactorNames, TensorSpec, encode_floats};
use crate::linalg::PivotFactors;
use crate::plan::{MatrixPlan, Storage};
use crate::spectrum::{Cost, Norms};

/// What is made of one or two tensors of a checkpoint, apart from all others.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// The tensor as it is.
    Copy(&'a str),
    /// The two factors of a matrix.
    Factor(&'a MatrixPlan),
    /// The product of two factors.
    Merge(Merge<'a>),
}

/// A factored matrix that becomes a dense one.
#[derive(Debug)]
pub(super) struct Merge<'a> {
    name: &'a str,
    shape: [usize; 2],
    rank: usize,
    dtype: Dtype,
    storage: Storage,
}

/// The content of the tensors of a piece.
pub(super) struct Made<'a> {
    /// Encoded, in the order of [`Piece::tensors`].
    pub data: Vec<Cow<'a, [u8]>>,
    /// What the factors lack of the matrix, where there are any.
    pub relative_error: Option<f64>,
}

impl<'a> Piece<'a> {
    /// The product of the factors of the matrix `name`.
    pub fn merge(checkpoint: &Checkpoint, name: &'a str) -> Result<Self, CheckpointError> {
        let names = FactorNames::of(name);
        let [rank, d_input] = checkpoint.matrix_shape(&names.v)?;
        let (storage, d_output) = match checkpoint.meta(&names.pivots) {
            Some(_) => (Storage::Pivot, checkpoint.matrix_shape(&names.c)?[0] + rank),
            None => (Storage::Factors, checkpoint.matrix_shape(&names.u)?[0]),
        };
        let dtype = checkpoint.raw(&names.v)?.0.dtype;
        Ok(Self::Merge(Merge { name, shape: [d_output, d_input], rank, dtype, storage }))
    }

    /// The matrix or the tensor.
    pub fn name(&self) -> &'a str {
        match self {
            Self::Copy(tensor) => tensor,
            Self::Factor(matrix) => &matrix.name,
            Self::Merge(merge) => merge.name,
        }
    }

    /// Whether it is counted; copies go beside.
    pub fn steps(&self) -> usize {
        usize::from(!matches!(self, Self::Copy(_)))
    }

    /// What it takes.
    pub fn cost(&self, checkpoint: &Checkpoint, norms: Norms<'_>) -> Cost {
        match self {
            Self::Copy(tensor) => {
                Cost::of_copy(checkpoint.meta(tensor).map_or(0, |meta| meta.parameters()))
            }
            Self::Factor(matrix) => {
                Cost::of_factors(matrix.shape, matrix.rank) + norms.cost(matrix.shape)
            }
            Self::Merge(merge) => Cost::of_product(merge.shape, merge.rank),
        }
    }

    /// The tensors that it is made from.
    pub fn sources(&self) -> Vec<String> {
        match self {
            Self::Copy(tensor) => vec![tensor.to_string()],
            Self::Factor(matrix) => vec![weight_of(&matrix.name)],
            Self::Merge(merge) => {
                let names = FactorNames::of(merge.name);
                match merge.storage {
                    Storage::Factors => vec![names.v, names.u],
                    Storage::Pivot => vec![names.v, names.c, names.pivots],
                }
            }
        }
    }

    /// Identifies the content that it is made from.
    pub fn source_digest(&self, checkpoint: &Checkpoint) -> Result<String, CheckpointError> {
        match self {
            // Checked against the file before.
            Self::Factor(MatrixPlan { digest: Some(digest), .. }) => Ok(digest.clone()),
            _ => self.sources().iter().map(|tensor| checkpoint.digest(tensor)).collect(),
        }
    }

    /// The tensors that are made.
    pub fn tensors(&self, checkpoint: &Checkpoint) -> Result<Vec<TensorSpec>, CheckpointError> {
        let spec = |name, dtype, shape: [usize; 2]| TensorSpec { name, dtype, shape: shape.into() };
        Ok(match self {
            Self::Copy(tensor) => {
                let (meta, _) = checkpoint.raw(tensor)?;
                let (dtype, shape) = (meta.dtype, meta.shape.clone());
                vec![TensorSpec { name: tensor.to_string(), dtype, shape }]
            }
            Self::Factor(matrix) => {
                let names = FactorNames::of(&matrix.name);
                let ([d_output, d_input], rank) = (matrix.shape, matrix.rank);
                let v = spec(names.v, matrix.dtype, [rank, d_input]);
                match matrix.storage {
                    Storage::Factors => vec![v, spec(names.u, matrix.dtype, [d_output, rank])],
                    Storage::Pivot => {
                        let pivots =
                            TensorSpec { name: names.pivots, dtype: Dtype::I32, shape: vec![rank] };
                        vec![v, spec(names.c, matrix.dtype, [d_output - rank, rank]), pivots]
                    }
                }
            }
            Self::Merge(merge) => vec![spec(weight_of(merge.name), merge.dtype, merge.shape)],
        })
    }

    /// Makes it.
    pub fn make(
        &self,
        checkpoint: &'a Checkpoint,
        norms: Norms<'_>,
    ) -> Result<Made<'a>, FilesError> {
        match self {
            Self::Copy(tensor) => {
                checkpoint.check_finite(tensor)?;
                let (_, bytes) = checkpoint.raw(tensor)?;
                Ok(Made { data: vec![Cow::Borrowed(bytes)], relative_error: None })
            }
            Self::Factor(matrix) => factored(checkpoint, matrix, norms),
            Self::Merge(merge) => product(checkpoint, merge),
        }
    }
}

fn factored<'a>(
    checkpoint: &Checkpoint,
    matrix: &MatrixPlan,
    norms: Norms<'_>,
) -> Result<Made<'a>, FilesError> {
    let dense = checkpoint.read_matrix(&weight_of(&matrix.name))?;
    let Factored { form, relative_error } =
        factor(&dense, matrix, norms).map_err(|error| match error {
            FactorError::Linalg(source) => FilesError::Linalg { name: matrix.name.clone(), source },
            FactorError::Calibration(error) => error.into(),
        })?;
    drop(dense);
    let names = FactorNames::of(&matrix.name);
    let encode = |tensor: &str, values: &[f64]| -> Result<Cow<'a, [u8]>, FilesError> {
        Ok(Cow::Owned(encode_floats(tensor, values, matrix.dtype)?))
    };
    let data = match form {
        Form::Factors { left, right } => {
            vec![encode(&names.v, &right)?, encode(&names.u, &left)?]
        }
        Form::Pivot(PivotFactors { pivots, rows, others }) => {
            let pivots = pivots.iter().flat_map(|pivot| (*pivot as i32).to_le_bytes()).collect();
            vec![encode(&names.v, &rows)?, encode(&names.c, &others)?, Cow::Owned(pivots)]
        }
    };
    Ok(Made { data, relative_error: Some(relative_error) })
}

fn product<'a>(checkpoint: &Checkpoint, merge: &Merge<'_>) -> Result<Made<'a>, FilesError> {
    let names = FactorNames::of(merge.name);
    let failed = |source| FilesError::Linalg { name: merge.name.into(), source };
    let v = checkpoint.read_matrix(&names.v)?;
    let product = match merge.storage {
        Storage::Factors => {
            checkpoint.read_matrix(&names.u)?.product(&v).map_err(failed)?.data().to_vec()
        }
        Storage::Pivot => {
            let [rows, cols] = merge.shape;
            let order = checkpoint.read_order(&names.pivots, merge.rank, rows)?;
            let others = checkpoint.read_matrix(&names.c)?.product(&v).map_err(failed)?;
            let row = |place: i32| {
                let place = place as usize;
                match place.checked_sub(merge.rank) {
                    Some(other) => &others.data()[other * cols..][..cols],
                    None => &v.data()[place * cols..][..cols],
                }
            };
            order.into_iter().flat_map(row).copied().collect()
        }
    };
    let data = encode_floats(&weight_of(merge.name), &product, merge.dtype)?;
    Ok(Made { data: vec![Cow::Owned(data)], relative_error: None })
}

fn weight_of(name: &str) -> String {
    format!("{name}.weight")
}
