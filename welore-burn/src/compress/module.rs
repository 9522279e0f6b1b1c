use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{DType, Device};

use super::check::planned_matrices;
use super::error::CompressError;
use super::options::Compressor;
use super::report::{CompressReport, CompressedMatrix};
use crate::forms::{LiveMatrix, NewParams, StoredError, StoredForm, attach_params, params_of};
use crate::linalg::Cost;
use crate::modules::MatrixName;
use crate::plan::{MatrixPlan, RankPlan};
use crate::progress::{Part, Progress};
use crate::spectrum::stored_dtype;

/// Carries out a plan on any Burn module in the norm of the weights; see [`Compressor::module`].
/// Only the parts of the compressed matrices train in the result.
///
/// # Errors
///
/// [`CompressError`].
pub fn compress_module<M: Module>(
    module: M,
    plan: &RankPlan,
    progress: &mut dyn Progress,
) -> Result<(M, CompressReport), CompressError> {
    Compressor::new(plan).module(module, progress)
}

impl Compressor<'_> {
    /// Compresses the low-rank components of the plan in any Burn module, each independently.
    ///
    /// Every low-rank matrix `X` of the plan must be a parameter with path `X.weight`, of shape
    /// `[d_input, d_output]`. It gets its planned form. Its parts are trainable, and every other
    /// parameter is frozen, which is how WeLore fine-tunes, unless
    /// [`with_rest`](Compressor::with_rest) says otherwise.
    /// [`LowRankLinear`](crate::linear::LowRankLinear) multiplies by the factors one after the
    /// other; any other layer, such as `nn::Linear`, materializes the product.
    ///
    /// Decompositions run on the CPU in f64; factors are moved to the device of the weight, in its
    /// type. The module may be on a plain or an autodiff device.
    ///
    /// # Errors
    ///
    /// [`CompressError`]. Names, shapes and layouts are checked before the first decomposition.
    /// [`CompressError::NeedsModel`] with [`BlockwiseOptions`](super::BlockwiseOptions): use
    /// [`Compressor::model`].
    pub fn module<M: Module>(
        &self,
        module: M,
        progress: &mut dyn Progress,
    ) -> Result<(M, CompressReport), CompressError> {
        if self.blockwise.is_some() {
            return Err(CompressError::NeedsModel);
        }
        let matrices = planned_matrices(&module, self.plan)?;
        let (mut params, report) = self.factor_all(&matrices, progress)?;
        let attach = |path: &str, _: &_| params.remove(&MatrixName::of_weight(path)?);
        Ok((attach_params(module, attach, self.rest), report))
    }

    /// Factors matrices, as many at a time as the budget allows. Factors are moved to the device as
    /// soon as they are ready.
    fn factor_all(
        &self,
        matrices: &[LiveMatrix],
        progress: &mut dyn Progress,
    ) -> Result<(BTreeMap<MatrixName, NewParams>, CompressReport), CompressError> {
        let plans: Vec<&MatrixPlan> = self.plan.compressed().collect();
        let costs: Vec<Cost> = plans.iter().map(|plan| self.cost(plan)).collect();
        let needs: Vec<u64> = costs.iter().map(|cost| cost.bytes).collect();
        let budget = self.write.budget;
        budget.check(plans.iter().map(|plan| plan.name.as_str()).zip(needs.iter().copied()))?;
        let operations = costs.iter().fold(0, |sum: u64, cost| sum.saturating_add(cost.operations));
        progress.begin_work("factoring", matrices.len(), operations);
        progress.count_in("matrices");
        let mut params = BTreeMap::new();
        let mut errors = vec![StoredError::default(); matrices.len()];
        budget.workers().try_spread_within(
            budget.memory,
            &needs,
            |index| self.factor_live(plans[index], &matrices[index]),
            |index, (made, error)| -> Result<(), CompressError> {
                errors[index] = error;
                let name = &plans[index].name;
                params.extend(made.map(|made| (name.clone(), made)));
                let operations = costs[index].operations;
                let part = Part { item: name.as_str(), steps: 1, operations, known: false };
                Ok(progress.part(part)?)
            },
        )?;
        let compressed = plans.iter().zip(errors).map(|(plan, error)| {
            CompressedMatrix::new(plan, error, self.norms.is_of_loss(&plan.name))
        });
        let report =
            CompressReport { compressed: compressed.collect(), ..CompressReport::default() };
        Ok((params, report))
    }

    fn factor_live(
        &self,
        plan: &MatrixPlan,
        matrix: &LiveMatrix,
    ) -> Result<(Option<NewParams>, StoredError), CompressError> {
        let name = &plan.name;
        let dense = matrix.to_matrix().map_err(CompressError::of_form(name))?;
        let norm = self.norms.of(name)?;
        let (dtype, device) = place_of(matrix);
        let made = plan.form.make_stored(&dense, &norm, stored_dtype(dtype), self.rounding);
        let StoredForm { parts, error } = made.map_err(CompressError::of_making(name))?;
        drop(dense);
        let shape = [plan.shape[1], plan.shape[0]];
        let params = params_of(plan.form, shape, parts, matrix.base.id, dtype, &device);
        Ok((params.map_err(CompressError::of_form(name))?, error))
    }

    /// The cost of bringing a matrix into its form, or of adapting it if that is the dense one.
    pub(super) fn cost(&self, plan: &MatrixPlan) -> Cost {
        let making = plan.form.cost_to_store(plan.shape, plan.dtype);
        making + self.norms.cost(&plan.name, plan.shape)
    }
}

/// The type and the device of a weight.
fn place_of(matrix: &LiveMatrix) -> (DType, Device) {
    let value = matrix.base.base();
    (value.dtype(), value.device())
}
