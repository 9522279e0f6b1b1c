//! What an error of a matrix costs.

use faer::Mat;

use super::matrix::{LinalgError, Matrix};
use super::moments::SecondMoment;
use super::shrink::Shrink;

/// `½ tr(G ΔW C ΔWᵀ)`: how much an error `ΔW` of a matrix `[out, in]`, row-major, is expected to
/// raise the loss, to second order. `inputs` has the second moment `C` of the inputs, `outputs` that
/// of the gradients of the outputs, `G`; without it, `G` is the identity, and this is half of the
/// mean squared error of the outputs.
///
/// Products and sums are f64.
///
/// # Errors
///
/// [`LinalgError::Length`] if there are no whole rows, [`LinalgError::Inner`] if there are not as
/// many as `outputs` has, [`LinalgError::Empty`], [`LinalgError::NotFinite`].
pub fn loss_of_error(
    error: &[f32],
    inputs: &SecondMoment,
    outputs: Option<&SecondMoment>,
) -> Result<f64, LinalgError> {
    between(error, &inputs.mean(), outputs.map(SecondMoment::mean).as_ref())
}

/// The same in the norm of second moments that are shrunk by these shares, of the inputs and of the
/// gradients.
///
/// # Errors
///
/// Those of [`loss_of_error`].
pub(crate) fn shrunk_loss_of_error(
    error: &[f32],
    inputs: &SecondMoment,
    outputs: &SecondMoment,
    shrink: [f64; 2],
) -> Result<f64, LinalgError> {
    let [of_inputs, of_outputs] = shrink.map(Shrink::Share);
    between(error, &inputs.shrunk_by(of_inputs)?, Some(&outputs.shrunk_by(of_outputs)?))
}

fn between(
    error: &[f32],
    inputs: &Mat<f64>,
    outputs: Option<&Mat<f64>>,
) -> Result<f64, LinalgError> {
    let columns = inputs.ncols();
    let rows = error.len() / columns.max(1);
    let error = Matrix::new(rows, columns, error.iter().map(|x| f64::from(*x)).collect())?;
    let right = error.view() * inputs.as_ref();
    let left = match outputs {
        Some(outputs) if outputs.ncols() != rows => {
            return Err(LinalgError::Inner { left: outputs.ncols(), right: rows });
        }
        Some(outputs) => outputs.as_ref() * error.view(),
        None => error.view().to_owned(),
    };
    let column = |j: usize| left.col(j).iter().zip(right.col(j).iter()).map(|(a, b)| a * b);
    Ok((0..columns).map(|j| column(j).sum::<f64>()).sum::<f64>() / 2.0)
}
