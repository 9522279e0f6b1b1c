//! Rounding of a matrix into blocks, or to numbers of 16 bits, in a norm.

use half::{bf16, f16};
use safetensors::Dtype;

use super::error::FormError;
use crate::ggml::TensorType;
use crate::linalg::{Feedback, Matrix, Weighting, transpose};

/// A matrix `[rows, columns]` in blocks of a type, by rows, or, `turned`, by columns. What rounding
/// loses is made up for by columns and rows, where their feedback is known.
///
/// # Errors
///
/// [`FormError::Blocks`], for rows that do not fill blocks as for entries that they cannot hold.
pub(super) fn round_into(
    tensor_type: TensorType,
    turned: bool,
    matrix: &Matrix,
    [columns, rows]: [Option<&Feedback>; 2],
) -> Result<Vec<u8>, FormError> {
    let entries: Vec<f32> = matrix.data().iter().map(|x| *x as f32).collect();
    let (entries, width, along, across) = match turned {
        false => (entries, matrix.cols(), columns, rows),
        true => {
            let entries = transpose(&entries, matrix.rows(), matrix.cols());
            (entries, matrix.rows(), rows, columns)
        }
    };
    let bytes = match (along, across) {
        (None, None) => tensor_type.quantize(&entries, width, None),
        (Some(along), across) => tensor_type.quantize_with_feedback(&entries, width, along, across),
        (None, Some(across)) => {
            let even = Feedback::even(width);
            tensor_type.quantize_with_feedback(&entries, width, &even, Some(across))
        }
    };
    Ok(bytes?)
}

/// The inverse: the entries that blocks stand for.
///
/// # Errors
///
/// [`FormError::Blocks`] if they do not fill a matrix of this shape, [`FormError::Scale`] for
/// entries that are not finite.
pub(super) fn unpacked(
    tensor_type: TensorType,
    turned: bool,
    [rows, columns]: [usize; 2],
    bytes: &[u8],
) -> Result<Matrix, FormError> {
    let width = if turned { rows } else { columns };
    let entries = tensor_type.dequantize_rows(bytes, width)?;
    if let Some(block) = tensor_type.not_finite(bytes) {
        return Err(FormError::Scale { block });
    }
    let entries: Vec<f64> = entries.into_iter().map(f64::from).collect();
    Ok(match turned {
        false => Matrix::new(rows, columns, entries)?,
        true => Matrix::new(columns, rows, entries)?.transposed(),
    })
}

/// Columns that are rounded before what they lost is handed on to the others.
const COLUMNS_AT_ONCE: usize = 64;

/// A matrix whose entries are rounded to a type of 16 bits, and stay as they are in others. What
/// rounding loses is made up for by columns and rows, where their feedback is known.
///
/// # Errors
///
/// [`FormError::Overflow`].
pub(super) fn round_numbers(
    matrix: &Matrix,
    dtype: Dtype,
    [columns, rows]: [Option<&Feedback>; 2],
) -> Result<Matrix, FormError> {
    let nearest = |x: f32| match dtype {
        Dtype::F16 => f16::from_f32(x).to_f32(),
        Dtype::BF16 => bf16::from_f32(x).to_f32(),
        _ => x,
    };
    let even = [matrix.cols(), matrix.rows()].map(Feedback::even);
    let (columns, rows) = (columns.unwrap_or(&even[0]), rows.unwrap_or(&even[1]));
    let mut entries: Vec<f32> = matrix.data().iter().map(|x| *x as f32).collect();
    columns.pass_both(
        rows,
        &mut entries,
        COLUMNS_AT_ONCE,
        |_, _| (),
        |_, (), block| block.round(|_, x| nearest(x)),
    );
    if let Some(at) = entries.iter().position(|x| !x.is_finite()) {
        return Err(FormError::Overflow { value: matrix.data()[at], dtype });
    }
    let entries = entries.into_iter().map(f64::from).collect();
    Ok(Matrix::new(matrix.rows(), matrix.cols(), entries)?)
}

/// `a - b`.
pub(super) fn gap(a: &Matrix, b: &Matrix) -> Result<Matrix, FormError> {
    let gaps = a.data().iter().zip(b.data()).map(|(a, b)| a - b).collect();
    Ok(Matrix::new(a.rows(), a.cols(), gaps)?)
}

/// `a + b`.
pub(super) fn sum(a: &Matrix, b: &Matrix) -> Result<Matrix, FormError> {
    let sums = a.data().iter().zip(b.data()).map(|(a, b)| a + b).collect();
    Ok(Matrix::new(a.rows(), a.cols(), sums)?)
}

/// `‖W - W'‖ / ‖W‖` in a norm, for the matrix `best` that has no error in it, and what is stored.
pub(super) fn relative_error(
    norm: &Weighting,
    best: &Matrix,
    stored: &Matrix,
) -> Result<f64, FormError> {
    error_and_size(norm, best, stored).map(|(error, _)| error)
}

/// The same, and `‖W‖`.
pub(super) fn error_and_size(
    norm: &Weighting,
    best: &Matrix,
    stored: &Matrix,
) -> Result<(f64, f64), FormError> {
    let error = norm.apply(&gap(best, stored)?)?.norm();
    let size = norm.apply(best)?.norm();
    Ok((if size == 0.0 { 0.0 } else { error / size }, size))
}
