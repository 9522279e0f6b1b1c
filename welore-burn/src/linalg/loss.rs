//! What an error of a matrix costs.

use super::matrix::{LinalgError, Matrix};
use super::moments::SecondMoment;

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
    let columns = inputs.size();
    let rows = error.len() / columns.max(1);
    let error = Matrix::new(rows, columns, error.iter().map(|x| f64::from(*x)).collect())?;
    let right = error.view() * inputs.mean().as_ref();
    let left = match outputs {
        Some(outputs) if outputs.size() != rows => {
            return Err(LinalgError::Inner { left: outputs.size(), right: rows });
        }
        Some(outputs) => outputs.mean().as_ref() * error.view(),
        None => error.view().to_owned(),
    };
    let column = |j: usize| left.col(j).iter().zip(right.col(j).iter()).map(|(a, b)| a * b);
    Ok((0..columns).map(|j| column(j).sum::<f64>()).sum::<f64>() / 2.0)
}
