use std::collections::BTreeMap;

use burn::module::Module;

use super::check::planned_matrices;
use super::error::CompressError;
use crate::forms::{Form, FormError, skeleton, slots};
use crate::modules::MatrixName;
use crate::plan::RankPlan;

/// Gives the matrices of a dense module the forms and ranks of a plan, without computing them: a
/// module of the right shapes, into which [`load_module`](crate::checkpoint::load_module) or Burn's
/// `load_record` puts factors and pivots that were made before.
///
/// Until then the new parameters are zero if they are read. They train; every other parameter stays
/// as it is. Initializes nothing, and allocates only the orders of matrices in pivoted storage.
///
/// # Errors
///
/// [`CompressError::ForeignPlan`] for a plan that names a matrix which the module does not have, or
/// has in another shape; [`CompressError::Form`] for a matrix that is not dense, or that cannot be
/// in a file in its planned form.
///
/// # Examples
///
/// ```
/// use burn::module::Module;
/// use burn::tensor::Device;
/// use safetensors::Dtype;
/// use welore_burn::compress::shape_by_plan;
/// use welore_burn::forms::Form;
/// use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
/// use welore_burn::plan::{MatrixPlan, RankPlan};
/// use welore_burn::spectrum::ModelSize;
///
/// #[derive(Module, Debug)]
/// struct Net {
///     hidden: LowRankLinear,
/// }
///
/// let hidden = LowRankLinearConfig::new(32, 64).with_bias(false).init(&Device::flex());
/// // `[out, in]`, as in files.
/// let matrix = MatrixPlan::new("hidden", [64, 32], Form::pivot(8), Dtype::F32);
/// let size = ModelSize { parameters: 32 * 64, bytes: 4 * 32 * 64 };
/// let plan = RankPlan::new("by hand", size, vec![matrix])?;
/// let net = shape_by_plan(Net { hidden }, &plan)?;
/// assert_eq!(net.hidden.form(), Form::pivot(8));
/// assert_eq!(net.num_params() as u64, plan.totals.parameters_after);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn shape_by_plan<M: Module>(module: M, plan: &RankPlan) -> Result<M, CompressError> {
    planned_matrices(&module, plan)?;
    let mut forms: BTreeMap<&MatrixName, Form> = BTreeMap::new();
    for matrix in plan.compressed() {
        // Whoever edits a plan in memory may have checked nothing.
        if let Some(problem) = matrix.form.problem(matrix.shape) {
            return Err(CompressError::of_form(&matrix.name)(FormError::Impossible(problem)));
        }
        forms.insert(&matrix.name, matrix.form);
    }
    let unfit = |(name, source)| CompressError::Form { name, source };
    // The pivots come with the weights; until then any will do.
    let form_of = |name: &MatrixName| forms.get(name).map(|form| (*form, form.any_indices()));
    let module = skeleton(module, form_of).map_err(unfit)?;
    slots(&module).map_err(unfit)?;
    Ok(module)
}
