//! The one decomposition behind both ways of surgery.

use crate::calibrate::CalibrationError;
use crate::linalg::{LinalgError, Matrix, PivotFactors, Weighting, pivot_factors};
use crate::plan::{MatrixPlan, Storage};
use crate::spectrum::Norms;

/// A matrix as its plan asks for it.
pub(crate) struct Factored {
    pub form: Form,
    /// Of the error, in the norm in which it is smallest.
    pub relative_error: f64,
}

/// How a factored matrix is stored.
pub(crate) enum Form {
    /// `left [out, rank]` and `right [rank, in]`.
    Factors { left: Vec<f64>, right: Vec<f64> },
    /// By some of its rows.
    Pivot(PivotFactors),
}

/// Why a matrix cannot be factored.
#[derive(Debug)]
pub(super) enum FactorError {
    Linalg(LinalgError),
    Calibration(CalibrationError),
}

impl From<LinalgError> for FactorError {
    fn from(error: LinalgError) -> Self {
        Self::Linalg(error)
    }
}

impl From<CalibrationError> for FactorError {
    fn from(error: CalibrationError) -> Self {
        Self::Calibration(error)
    }
}

/// Factors a dense matrix as planned: with the smallest error that its rank allows in its norm.
pub(super) fn factor(
    dense: &Matrix,
    plan: &MatrixPlan,
    norms: Norms<'_>,
) -> Result<Factored, FactorError> {
    Ok(factor_in(dense, plan, &norms.of(&plan.name)?)?)
}

/// The same in a given norm.
pub(crate) fn factor_in(
    dense: &Matrix,
    plan: &MatrixPlan,
    norm: &Weighting,
) -> Result<Factored, LinalgError> {
    let factors = norm.factors(dense, plan.rank)?;
    let relative_error = factors.relative_error;
    let form = match plan.storage {
        Storage::Factors => Form::Factors { left: factors.left, right: factors.right },
        Storage::Pivot => Form::Pivot(pivot_factors(&factors, dense.rows(), dense.cols())?),
    };
    Ok(Factored { form, relative_error })
}
