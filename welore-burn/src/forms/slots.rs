//! Where the parameters of modules are in checkpoints.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{DType, TensorData};
use safetensors::Dtype;

use super::error::FormError;
use super::form::Form;
use super::live::{LiveMatrix, is_transposed_layout, matrices};
use super::order::{checked_order, pivots_of_order};
use super::part::{Part, PartKind, PartSpec, TensorSpec};
use crate::linalg::{LinalgError, Matrix, transpose};
use crate::modules::{MatrixName, Place, walk};

/// Where a parameter of a weight is in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LiveSlot {
    /// The path of the parameter within the weight; empty for the base.
    pub param: &'static str,
    /// Index of the tensor among those of the form.
    pub tensor: usize,
    /// How one is converted into the other.
    pub codec: Codec,
}

/// How the content of a tensor and a parameter are converted into each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// They are the same.
    AsIs,
    /// The parameter is the transpose of the tensor.
    Transposed,
    /// The tensor holds pivots, the parameter an order.
    Order,
    /// Both hold the bytes of blocks.
    Blocks,
}

impl Codec {
    /// The shape of a parameter in a file.
    fn stored_shape(self, mut shape: Vec<usize>) -> Vec<usize> {
        if self == Self::Transposed {
            shape.reverse();
        }
        shape
    }

    /// The parameter for a floating point tensor that has this shape in a file.
    pub fn load(self, values: Vec<f32>, shape: &[usize]) -> TensorData {
        match (self, shape) {
            (Self::Transposed, [rows, cols]) => {
                TensorData::new(transpose(&values, *rows, *cols), [*cols, *rows])
            }
            _ => TensorData::new(values, shape.to_vec()),
        }
    }

    /// The content of a tensor as the value of the parameter, in f64. `None` for indices and blocks.
    pub(super) fn value(self, part: &Part) -> Option<TensorData> {
        let Part::Numbers(matrix) = part else { return None };
        let turned = self == Self::Transposed;
        let matrix = if turned { matrix.transposed() } else { matrix.clone() };
        let shape = [matrix.rows(), matrix.cols()];
        Some(TensorData::new(matrix.into_data(), shape))
    }

    /// A parameter as the content of its tensor. `rank` is the number of pivots of an order.
    fn store(self, data: TensorData, rank: usize) -> Result<Part, LinalgError> {
        let shape = data.shape().to_vec();
        match (self, &shape[..]) {
            (Self::Order, _) => {
                let order: Vec<i32> = data.iter::<i32>().collect();
                Ok(Part::Indices(pivots_of_order(&order, rank)))
            }
            (Self::Blocks, _) => Ok(Part::Blocks(data.as_bytes().to_vec())),
            (codec, [rows, cols]) => {
                let matrix = Matrix::new(*rows, *cols, data.iter::<f64>().collect())?;
                let turned = codec == Self::Transposed;
                Ok(Part::Numbers(if turned { matrix.transposed() } else { matrix }))
            }
            (_, other) => {
                let rows = other.iter().product();
                Ok(Part::Numbers(Matrix::new(rows, 1, data.iter::<f64>().collect())?))
            }
        }
    }
}

/// Where a parameter of a module is in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Path of the parameter.
    pub path: String,
    /// Name of the tensor.
    pub tensor: String,
    /// Shape in the file, or of its transpose if it is turned.
    pub shape: Vec<usize>,
    pub kind: PartKind,
    pub codec: Codec,
    /// Whether it is a dense weight whose files hold the transpose of what they hold of others.
    pub turned: bool,
    /// The number of pivots, if the parameter is an order.
    rank: usize,
}

impl Slot {
    /// The content of the tensor for the value of the parameter.
    pub fn store(&self, values: TensorData) -> Result<Part, LinalgError> {
        self.codec.store(values, self.rank)
    }

    /// The tensor, in a checkpoint whose numbers have the type `numbers` there.
    pub fn spec(&self, numbers: Dtype) -> TensorSpec {
        let dtype = self.kind.dtype(numbers);
        TensorSpec { name: self.tensor.clone(), dtype, shape: self.shape.clone() }
    }

    /// The value of a parameter that holds blocks, for the bytes of its tensor.
    ///
    /// # Errors
    ///
    /// [`FormError::Scale`] for blocks with entries that are not finite.
    pub fn load_blocks(&self, bytes: &[u8]) -> Result<TensorData, FormError> {
        let PartKind::Blocks(tensor_type) = self.kind else {
            return Err(FormError::Parts("stored"));
        };
        match tensor_type.not_finite(bytes) {
            Some(block) => Err(FormError::Scale { block }),
            None => Ok(TensorData::from_bytes_vec(bytes.to_vec(), self.shape.clone(), DType::U8)),
        }
    }

    /// The value of a parameter of this shape that holds indices, for the bytes of its tensor.
    ///
    /// # Errors
    ///
    /// [`FormError::Pivots`] for indices that are not distinct rows of the matrix.
    pub fn load_indices(&self, bytes: &[u8], shape: &[usize]) -> Result<TensorData, FormError> {
        let spec = PartSpec { suffix: "", shape: self.shape.clone(), kind: self.kind };
        let Part::Indices(indices) = Part::decode(&spec, Dtype::I32, bytes)? else {
            return Err(FormError::Parts("stored"));
        };
        match (self.codec, shape) {
            (Codec::Order, [d_output]) => {
                Ok(TensorData::new(checked_order(&indices, *d_output)?, [*d_output]))
            }
            _ => Ok(TensorData::new(indices, shape.to_vec())),
        }
    }
}

/// Where each parameter of a module is in a checkpoint, in Burn's order, without parameters that
/// do not belong there. Norms have their PyTorch names. Initializes nothing.
///
/// # Errors
///
/// The name of a weight whose layout is transposed in records, or whose form such a module cannot
/// have.
pub(crate) fn slots(module: &impl Module) -> Result<Vec<Slot>, (MatrixName, FormError)> {
    let matrices: BTreeMap<String, LiveMatrix> =
        matrices(module).into_iter().map(|matrix| (matrix.name.weight(), matrix)).collect();
    for matrix in matrices.values() {
        if is_transposed_layout(&matrix.base) {
            return Err((matrix.name.clone(), FormError::Layout));
        }
    }
    let mut slots = Vec::new();
    let mut failed = None;
    walk(module, |place, param| {
        let slot = match matrices.get(&place.owner) {
            Some(matrix) => match matrix_slot(matrix, place, param.shape()) {
                Ok(slot) => slot,
                Err(error) => {
                    failed.get_or_insert((matrix.name.clone(), error));
                    None
                }
            },
            None if param.is_float() => Some(Slot {
                path: place.path.clone(),
                tensor: other_tensor(place),
                shape: param.shape(),
                kind: PartKind::Numbers,
                codec: Codec::AsIs,
                turned: false,
                rank: 0,
            }),
            None => None,
        };
        slots.extend(slot);
    });
    failed.map_or(Ok(slots), Err)
}

fn matrix_slot(
    matrix: &LiveMatrix,
    place: &Place,
    shape: Vec<usize>,
) -> Result<Option<Slot>, FormError> {
    let slots = matrix.form.slots(matrix.of_linear);
    let slots = slots.ok_or_else(|| {
        FormError::Impossible("only weights of linear layers can be stored with pivots".into())
    })?;
    let Some(slot) = slots.iter().find(|slot| slot.param == place.part) else {
        // An adapter, for example, does not belong in a checkpoint of the model.
        return Ok(None);
    };
    let part = &matrix.form.parts(matrix.shape)[slot.tensor];
    let shape = match slot.codec {
        Codec::Order => part.shape.clone(),
        codec => codec.stored_shape(shape),
    };
    Ok(Some(Slot {
        path: place.path.clone(),
        tensor: matrix.name.part(part.suffix),
        shape,
        kind: part.kind,
        codec: slot.codec,
        turned: place.is_turned() && matrix.form == Form::dense(),
        rank: matrix.form.rank().unwrap_or(0),
    }))
}

/// The tensor of a parameter that belongs to no matrix. Burn names the parameters of norms
/// differently from PyTorch.
fn other_tensor(place: &Place) -> String {
    let renamed = |from: &str, to: &str| {
        let owner = place.path.strip_suffix(from)?;
        place.is_norm().then(|| format!("{owner}{to}"))
    };
    renamed(".gamma", ".weight")
        .or_else(|| renamed(".beta", ".bias"))
        .unwrap_or_else(|| place.path.clone())
}
