use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::factoring::{FactorError, Factored, Form, factor};
use crate::calibrate::CalibrationError;
use crate::linalg::{LinalgError, PivotFactors};
use crate::linear::{
    FactorParams, Rest, as_matrix, attach_factors, factored_paths, is_transposed_layout,
    order_of_pivots, to_matrix,
};
use crate::plan::{MatrixPlan, RankPlan};
use crate::progress::{Interrupted, Progress};
use crate::spectrum::Norms;

/// What surgery did.
#[derive(Debug, Clone, PartialEq)]
pub struct SurgeryReport {
    /// One entry a factored matrix, in the module's order.
    pub factored: Vec<FactoredMatrix>,
}

/// One factored matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct FactoredMatrix {
    /// Name of the matrix: its parameter's path without `.weight`.
    pub name: String,
    /// Its new rank.
    pub rank: usize,
    /// `‖W - W_k‖ / ‖W‖`, in the norm in which it was factored: the Frobenius norm unless that is
    /// one of a calibration.
    pub relative_error: f64,
}

/// Why a plan cannot be carried out on a module.
#[derive(Debug, thiserror::Error)]
pub enum SurgeryError {
    /// The module has no such matrix.
    #[error("the plan names `{0}`, which the model does not have; was it made for another model?")]
    NoSuchMatrix(String),
    /// The matrix has another shape than the plan says.
    #[error(
        "`{name}` is {found:?} in the model and {planned:?} in the plan; was it made for another model?"
    )]
    Shape {
        /// Name of the matrix.
        name: String,
        /// `[out, in]` in the module.
        found: [usize; 2],
        /// `[out, in]` in the plan.
        planned: [usize; 2],
    },
    /// The matrix is factored already.
    #[error("`{0}` is factored already; apply plans to the dense model")]
    Factored(String),
    /// The weight's layout is transposed in records.
    #[error("`{0}` has LinearLayout::Col, which cannot be factored; use LinearLayout::Row")]
    Layout(String),
    /// The decomposition failed.
    #[error("`{name}`: {source}")]
    Linalg {
        /// Name of the matrix.
        name: String,
        /// Why.
        source: LinalgError,
    },
    /// The calibration cannot be used.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The user stopped the work.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Factors the low-rank components of a plan in any Burn module, and freezes all else.
///
/// Every low-rank matrix `X` of the plan must be a parameter with path `X.weight`, of shape
/// `[d_input, d_output]`. It becomes `down · up` with `√S` on both sides
/// ([`balanced_factors`](crate::linalg::balanced_factors)), or takes the form that the plan's
/// [`Storage`](crate::plan::Storage) says; its factors are trainable, every other parameter is frozen, which
/// is how WeLore fine-tunes. [`LowRankLinear`](crate::linear::LowRankLinear) multiplies by
/// the factors one after the other; any other layer, such as `nn::Linear`, materializes.
///
/// Decompositions run on the CPU in f64; factors go to the weight's device in the weight's
/// type. The module may be on a plain or an autodiff device.
///
/// # Errors
///
/// [`SurgeryError`]. Names, shapes and layouts are checked before the first decomposition.
pub fn apply_plan<M: Module>(
    module: M,
    plan: &RankPlan,
    progress: &mut dyn Progress,
) -> Result<(M, SurgeryReport), SurgeryError> {
    apply_plan_in(module, plan, Norms::plain(), progress)
}

/// [`apply_plan`] with the factors that are best in the norms of a calibration.
///
/// # Errors
///
/// Also [`SurgeryError::Calibration`].
pub fn apply_plan_in<M: Module>(
    module: M,
    plan: &RankPlan,
    norms: Norms<'_>,
    progress: &mut dyn Progress,
) -> Result<(M, SurgeryReport), SurgeryError> {
    let planned: BTreeMap<&str, &MatrixPlan> =
        plan.low_rank().map(|matrix| (matrix.name.as_str(), matrix)).collect();
    check(&module, &planned)?;
    progress.begin("factoring", planned.len());
    let mut report = SurgeryReport { factored: Vec::new() };
    let mut error = None;
    let module = attach_factors(
        module,
        |path, weight| {
            let matrix = planned.get(path.strip_suffix(".weight")?)?;
            if error.is_some() {
                return None;
            }
            match factor_weight(matrix, weight, norms, progress) {
                Ok((params, done)) => {
                    report.factored.push(done);
                    Some(params)
                }
                Err(failed) => {
                    error = Some(failed);
                    None
                }
            }
        },
        Rest::Freeze,
    );
    match error {
        Some(error) => Err(error),
        None => Ok((module, report)),
    }
}

fn factor_weight(
    matrix: &MatrixPlan,
    weight: &Param<Tensor<2>>,
    norms: Norms<'_>,
    progress: &mut dyn Progress,
) -> Result<(FactorParams, FactoredMatrix), SurgeryError> {
    let name = &matrix.name;
    progress.step(name)?;
    let failed = |source| SurgeryError::Linalg { name: name.clone(), source };
    let value = weight.base();
    let (dtype, device) = (value.dtype(), value.device());
    let dense = to_matrix(value).map_err(failed)?;
    let Factored { form, relative_error } =
        factor(&dense, matrix, norms).map_err(|error| match error {
            FactorError::Linalg(source) => failed(source),
            FactorError::Calibration(error) => error.into(),
        })?;
    let params = factor_params(weight.id, form, matrix, dtype, &device);
    Ok((params, FactoredMatrix { name: name.clone(), rank: matrix.rank, relative_error }))
}

/// The parameters of a factored weight, which keeps the id of the dense one.
pub(crate) fn factor_params(
    id: ParamId,
    form: Form,
    matrix: &MatrixPlan,
    dtype: DType,
    device: &Device,
) -> FactorParams {
    let ([d_output, d_input], rank) = (matrix.shape, matrix.rank);
    // The factors are those of [out, in]; the parameters are their transposes.
    let (down, up, order) = match form {
        Form::Factors { left, right } => {
            (right, on_device(left, [d_output, rank], dtype, device), None)
        }
        Form::Pivot(PivotFactors { pivots, rows, others }) => {
            let pivots: Vec<i32> = pivots.into_iter().map(|pivot| pivot as i32).collect();
            let order = order_of_pivots(&pivots, d_output).expect("pivots are different rows");
            let order = Tensor::from_data(TensorData::new(order, [d_output]), device);
            (rows, on_device(others, [d_output - rank, rank], dtype, device), Some(order))
        }
    };
    let down = on_device(down, [rank, d_input], dtype, device);
    FactorParams {
        down: Param::initialized(id, down).set_require_grad(true),
        up: Param::from_tensor(up),
        order,
    }
}

/// The transpose of a row-major matrix, contiguous on the device.
fn on_device(values: Vec<f64>, shape: [usize; 2], dtype: DType, device: &Device) -> Tensor<2> {
    let [rows, cols] = shape;
    let transposed: Vec<f64> =
        (0..cols).flat_map(|j| values[j..].iter().step_by(cols).copied()).collect();
    let data = TensorData::new(transposed, [cols, rows]).convert_dtype(dtype);
    Tensor::from_data(data, (device, dtype))
}

fn check<M: Module>(module: &M, planned: &BTreeMap<&str, &MatrixPlan>) -> Result<(), SurgeryError> {
    // A factored weight may have a plausible shape by accident, so this comes first.
    if let Some(path) = factored_paths(module).into_iter().next() {
        let name = path.strip_suffix(".weight").unwrap_or(&path);
        return Err(SurgeryError::Factored(name.into()));
    }
    let mut checker = Checker { planned: planned.clone(), path: Vec::new(), error: None };
    module.visit(&mut checker);
    match (checker.error, checker.planned.keys().next()) {
        (Some(error), _) => Err(error),
        (None, Some(name)) => Err(SurgeryError::NoSuchMatrix(name.to_string())),
        (None, None) => Ok(()),
    }
}

/// Strikes every matrix it meets off the list, and notes the first that does not fit.
struct Checker<'a> {
    planned: BTreeMap<&'a str, &'a MatrixPlan>,
    path: Vec<String>,
    error: Option<SurgeryError>,
}

impl ModuleVisitor for Checker<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        let Some(matrix) = path.strip_suffix(".weight").and_then(|name| self.planned.remove(name))
        else {
            return;
        };
        let name = || matrix.name.clone();
        let Some(weight) = as_matrix(param) else {
            self.error.get_or_insert(SurgeryError::NoSuchMatrix(name()));
            return;
        };
        let shape = weight.lazy_shape();
        let found = [shape[1], shape[0]];
        if is_transposed_layout(weight) {
            self.error.get_or_insert(SurgeryError::Layout(name()));
        } else if found != matrix.shape {
            let planned = matrix.shape;
            self.error.get_or_insert(SurgeryError::Shape { name: name(), found, planned });
        }
    }
}
