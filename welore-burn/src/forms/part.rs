use half::{bf16, f16};
use safetensors::Dtype;

use super::error::FormError;
use crate::ggml::TensorType;
use crate::linalg::Matrix;

/// One of the tensors that a matrix is stored in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartSpec {
    /// What follows the name of the matrix in the name of the tensor, such as `V.weight`.
    pub suffix: &'static str,
    /// Shape of the tensor.
    pub shape: Vec<usize>,
    /// What the tensor holds.
    pub kind: PartKind,
}

impl PartSpec {
    /// Number of entries.
    pub(super) fn entries(&self) -> u64 {
        self.shape.iter().map(|n| *n as u64).fold(1, u64::saturating_mul)
    }

    /// The tensor of this name, in a matrix whose numbers are of type `dtype`.
    pub(super) fn spec(&self, name: impl Into<String>, dtype: Dtype) -> TensorSpec {
        TensorSpec { name: name.into(), dtype: self.kind.dtype(dtype), shape: self.shape.clone() }
    }
}

/// What a tensor of a stored matrix holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// Numbers in the type of the matrix: parameters.
    Numbers,
    /// Indices, I32. They do not count as parameters.
    Indices,
    /// Blocks of one of llama.cpp's types, U8; see [`Blocks`](super::Blocks).
    Blocks(TensorType),
}

impl PartKind {
    /// The type of the tensor, in a matrix whose numbers are of type `numbers`.
    pub fn dtype(self, numbers: Dtype) -> Dtype {
        match self {
            Self::Numbers => numbers,
            Self::Indices => Dtype::I32,
            Self::Blocks(_) => Dtype::U8,
        }
    }
}

/// The content of one of the tensors that a matrix is stored in.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Numbers.
    Numbers(Matrix),
    /// Indices.
    Indices(Vec<i32>),
    /// Blocks.
    Blocks(Vec<u8>),
}

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name of the tensor.
    pub name: String,
    /// Stored type.
    pub dtype: Dtype,
    /// Stored shape.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Number of entries.
    pub fn entries(&self) -> u64 {
        self.shape.iter().map(|n| *n as u64).product()
    }

    /// Stored bytes.
    pub fn bytes(&self) -> u64 {
        self.entries().saturating_mul(self.dtype.bitsize() as u64) / 8
    }
}

impl Part {
    /// The bytes of the part, little-endian, row-major; numbers are rounded to `dtype`.
    ///
    /// # Errors
    ///
    /// [`FormError::Overflow`].
    pub fn encode(&self, dtype: Dtype) -> Result<Vec<u8>, FormError> {
        match self {
            Self::Numbers(matrix) => encode_floats(matrix.data(), dtype),
            Self::Indices(indices) => Ok(indices.iter().flat_map(|i| i.to_le_bytes()).collect()),
            Self::Blocks(bytes) => Ok(bytes.clone()),
        }
    }

    /// The inverse of [`encode`](Part::encode), for a tensor as described by `spec`.
    ///
    /// # Errors
    ///
    /// [`FormError::Parts`] if the number of bytes does not fit the shape,
    /// [`FormError::Linalg`] for numbers that are not finite.
    pub fn decode(spec: &PartSpec, dtype: Dtype, bytes: &[u8]) -> Result<Self, FormError> {
        match spec.kind {
            PartKind::Indices => return Ok(Self::Indices(entries(bytes, i32::from_le_bytes))),
            PartKind::Blocks(_) if spec.shape.iter().product::<usize>() != bytes.len() => {
                return Err(FormError::Parts("stored"));
            }
            PartKind::Blocks(_) => return Ok(Self::Blocks(bytes.to_vec())),
            PartKind::Numbers => {}
        }
        let &[rows, cols] = &spec.shape[..] else { return Err(FormError::Parts("stored")) };
        let values = match dtype {
            Dtype::F64 => entries(bytes, f64::from_le_bytes),
            Dtype::F32 => entries(bytes, |b| f64::from(f32::from_le_bytes(b))),
            Dtype::F16 => entries(bytes, |b| f16::from_le_bytes(b).to_f64()),
            Dtype::BF16 => entries(bytes, |b| bf16::from_le_bytes(b).to_f64()),
            _ => return Err(FormError::Parts("stored")),
        };
        Ok(Self::Numbers(Matrix::new(rows, cols, values)?))
    }

    /// The part after its numbers were rounded to `dtype`, as if stored and read again.
    ///
    /// # Errors
    ///
    /// [`FormError::Overflow`].
    pub fn as_stored(&self, dtype: Dtype) -> Result<Self, FormError> {
        let Self::Numbers(matrix) = self else { return Ok(self.clone()) };
        let rounded = matrix.data().iter().map(|x| round(*x, dtype)).collect::<Result<_, _>>()?;
        Ok(Self::Numbers(Matrix::new(matrix.rows(), matrix.cols(), rounded)?))
    }
}

fn entries<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| convert(*chunk)).collect()
}

/// A value rounded to a stored type.
fn round(value: f64, dtype: Dtype) -> Result<f64, FormError> {
    let stored = match dtype {
        Dtype::F32 => f64::from(value as f32),
        Dtype::F16 => f16::from_f64(value).to_f64(),
        Dtype::BF16 => bf16::from_f64(value).to_f64(),
        _ => value,
    };
    if stored.is_finite() { Ok(stored) } else { Err(FormError::Overflow { value, dtype }) }
}

/// Rounds values to a stored type, little-endian.
///
/// # Errors
///
/// [`FormError::Overflow`] if a value is not finite in `dtype`.
///
/// # Panics
///
/// Panics if `dtype` is not F64, F32, F16 or BF16; readers refuse other types first.
pub fn encode_floats(values: &[f64], dtype: Dtype) -> Result<Vec<u8>, FormError> {
    if let Some(error) = values.iter().find_map(|x| round(*x, dtype).err()) {
        return Err(error);
    }
    Ok(match dtype {
        Dtype::F64 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F32 => values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|x| f16::from_f64(*x).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|x| bf16::from_f64(*x).to_le_bytes()).collect(),
        dtype => panic!("{dtype} is not a float type that weights are stored in"),
    })
}
