//! The matrices of a block: brought into their forms, rounded, measured, and in the model.

use std::collections::BTreeMap;

use super::{Block, Blocks, Rounds};
use crate::calibrate::SharedInputs;
use crate::compress::error::CompressError;
use crate::compress::stages::Inputs;
use crate::forms::{FormError, Rest, StoredForm, attach, fill, read_matrices};
use crate::linalg::{LinalgError, Weighting};
use crate::model::LanguageModel;
use crate::modules::MatrixName;

impl<M: LanguageModel> Blocks<'_, M> {
    /// The norm for the inputs that a stage has, without that of its outputs.
    pub(super) fn norm_for(
        &self,
        stage: &[SharedInputs],
        inputs: &Inputs,
    ) -> Result<Weighting, CompressError> {
        let Inputs { seen, cross } = inputs;
        let shrink = self.compressor.norms.shrink().input;
        Weighting::sequential(seen, cross, self.options.follow, shrink, None)
            .map_err(CompressError::of_linalg(&stage[0].name))
    }

    /// The norm that a matrix is made in: for the inputs of its stage if these were measured.
    fn norm_of(
        &self,
        name: &MatrixName,
        shared: Option<&Weighting>,
    ) -> Result<Weighting, CompressError> {
        let norms = &self.compressor.norms;
        Ok(match shared {
            Some(shared) => shared.clone().with_output(norms.output_root(name)?),
            None => norms.of(name)?,
        })
    }

    /// Brings the matrices of a stage into their forms, for the inputs that they have.
    pub(super) fn factor(
        &self,
        stage: &[SharedInputs],
        shared: Option<&Weighting>,
        rounds: Rounds,
    ) -> Result<Block, CompressError> {
        let rounding = self.compressor.rounding;
        let work = |name: &MatrixName| -> Result<StoredForm, CompressError> {
            let (plan, norm) = (self.planned[name], self.norm_of(name, shared)?);
            let dense = self.watch.matrix(name).map_err(CompressError::of_form(name))?;
            let made = match rounds {
                Rounds::Now => plan.form.make_stored(&dense, &norm, plan.dtype, rounding),
                Rounds::Later => plan.form.make_to_refine(&dense, &norm, plan.dtype, rounding),
                Rounds::Never => plan.form.make(&dense, &norm).map(StoredForm::from),
            };
            made.map_err(CompressError::of_making(name))
        };
        let made = self.on_each(stage, work)?;
        Ok(stage.iter().map(|matrix| matrix.name.clone()).zip(made).collect())
    }

    /// Does work on each matrix of a stage, within the budget. The results are in the order of the stage.
    fn on_each<T: Send>(
        &self,
        stage: &[SharedInputs],
        work: impl Fn(&MatrixName) -> Result<T, CompressError> + Sync,
    ) -> Result<Vec<T>, CompressError> {
        let needs = stage.iter().map(|matrix| self.compressor.cost(self.planned[&matrix.name]));
        let needs: Vec<u64> = needs.map(|cost| cost.bytes).collect();
        let mut results: Vec<Option<T>> = stage.iter().map(|_| None).collect();
        self.jobs.try_spread_within(
            self.compressor.write.budget.memory,
            &needs,
            |place| work(&stage[place].name),
            |place, result| -> Result<(), CompressError> {
                results[place] = Some(result);
                Ok(())
            },
        )?;
        Ok(results.into_iter().flatten().collect())
    }

    /// Rounds the refined matrices of a stage so that numbers make up for each other, where that comes
    /// closer than the nearest numbers.
    pub(super) fn refit(
        &self,
        stage: &[SharedInputs],
        shared: Option<&Weighting>,
        block: &mut Block,
    ) -> Result<(), CompressError> {
        let made = &*block;
        let fitted = self.on_each(stage, |name| {
            let (plan, norm) = (self.planned[name], self.norm_of(name, shared)?);
            let fitted = plan.form.refitted(plan.shape, &made[name].parts, &norm, plan.dtype);
            fitted.map_err(CompressError::of_making(name))
        })?;
        for (matrix, fitted) in stage.iter().zip(fitted) {
            if let (Some(made), Some(fitted)) = (block.get_mut(&matrix.name), fitted) {
                made.parts = fitted;
            }
        }
        Ok(())
    }

    /// Measures how far the compressed matrices of a stage are from the dense ones, as they became.
    pub(super) fn measure(
        &self,
        stage: &[SharedInputs],
        shared: Option<&Weighting>,
        block: &mut Block,
    ) -> Result<(), CompressError> {
        let made = &*block;
        let errors = self.on_each(stage, |name| {
            let (plan, parts) = (self.planned[name], &made[name].parts);
            if plan.is_dense() {
                return Ok(None);
            }
            let norm = self.norm_of(name, shared)?;
            let dense = self.watch.matrix(name).map_err(CompressError::of_form(name))?;
            let error = plan.form.error_of(&dense, &norm, parts.clone());
            error.map(Some).map_err(CompressError::of_making(name))
        })?;
        for (matrix, error) in stage.iter().zip(errors) {
            if let (Some(made), Some(error)) = (block.get_mut(&matrix.name), error) {
                made.error.stored_error = error;
            }
        }
        Ok(())
    }

    /// The model with the matrices of a block rounded to their stored types.
    pub(super) fn rounded(&self, model: M, block: &mut Block) -> Result<M, CompressError> {
        for (name, made) in block.iter_mut() {
            let dtype = self.planned[name].dtype;
            for part in &mut made.parts {
                *part = part.as_stored(dtype).map_err(CompressError::of_form(name))?;
            }
        }
        let parts = block.iter().map(|(name, made)| (name.clone(), made.parts.clone()));
        Ok(fill(model, &parts.collect()))
    }

    /// Takes the parts of a block from the trained model.
    pub(super) fn read_back(
        &self,
        index: usize,
        model: &M,
        block: &mut Block,
    ) -> Result<(), CompressError> {
        let trained = read_matrices(&model.valid(), |name| block.contains_key(name));
        let trained = trained.map_err(|(name, source)| match source {
            // Too large a learning rate.
            FormError::Linalg(LinalgError::NotFinite { .. }) => {
                CompressError::NotFinite { block: index + 1 }
            }
            source => CompressError::Form { name, source },
        })?;
        for (name, parts) in trained {
            if let Some(made) = block.get_mut(&name) {
                made.parts = parts;
            }
        }
        Ok(())
    }

    /// The model with these matrices of a block in it.
    pub(super) fn attach(&self, model: M, block: &Block) -> Result<M, CompressError> {
        let choose = |name: &MatrixName| {
            let (made, plan) = (block.get(name)?, self.planned[name]);
            (!plan.is_dense()).then(|| (plan.form, made.parts.clone()))
        };
        let attached = attach(model, choose, Rest::Keep);
        let attached = attached.map_err(|(name, source)| CompressError::Form { name, source })?;
        // A matrix that stays dense keeps its parameter.
        let adapted = block.iter().filter(|(name, _)| self.planned[*name].is_dense());
        let adapted: BTreeMap<_, _> =
            adapted.map(|(name, made)| (name.clone(), made.parts.clone())).collect();
        Ok(if adapted.is_empty() { attached } else { fill(attached, &adapted) })
    }
}
