//! The matrices of a block: brought into their forms, rounded, measured, and in the model.

use std::collections::BTreeMap;

use super::{Block, Blocks};
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

    /// What compressing each of some matrices needs, in bytes.
    fn needs(&self, stage: &[SharedInputs]) -> Vec<u64> {
        let needs = stage.iter().map(|matrix| self.compressor.cost(self.planned[&matrix.name]));
        needs.map(|cost| cost.bytes).collect()
    }

    /// Brings the matrices of a stage into their forms, for the inputs that they have.
    pub(super) fn factor(
        &self,
        stage: &[SharedInputs],
        shared: Option<&Weighting>,
        rounds: bool,
    ) -> Result<Block, CompressError> {
        let work = |place: usize| -> Result<StoredForm, CompressError> {
            let name = &stage[place].name;
            let (plan, norm) = (self.planned[name], self.norm_of(name, shared)?);
            let dense = self.watch.matrix(name).map_err(CompressError::of_form(name))?;
            let made = match rounds {
                true => {
                    let rounding = self.compressor.rounding;
                    plan.form.make_stored(&dense, &norm, plan.dtype, rounding)
                }
                false => plan.form.make(&dense, &norm).map(StoredForm::from),
            };
            made.map_err(CompressError::of_making(name))
        };
        let mut block = Block::new();
        let memory = self.compressor.write.budget.memory;
        self.jobs.try_spread_within(memory, &self.needs(stage), work, |place, made| {
            block.insert(stage[place].name.clone(), made);
            Ok(())
        })?;
        Ok(block)
    }

    /// Measures how far the compressed matrices of a stage are from the dense ones, as they became.
    pub(super) fn measure(
        &self,
        stage: &[SharedInputs],
        shared: Option<&Weighting>,
        block: &mut Block,
    ) -> Result<(), CompressError> {
        let made = &*block;
        let work = |place: usize| -> Result<Option<f64>, CompressError> {
            let name = &stage[place].name;
            let (plan, parts) = (self.planned[name], &made[name].parts);
            if plan.is_dense() {
                return Ok(None);
            }
            let norm = self.norm_of(name, shared)?;
            let dense = self.watch.matrix(name).map_err(CompressError::of_form(name))?;
            let error = plan.form.error_of(&dense, &norm, parts.clone());
            error.map(Some).map_err(CompressError::of_making(name))
        };
        let mut errors = vec![None; stage.len()];
        let memory = self.compressor.write.budget.memory;
        self.jobs.try_spread_within(
            memory,
            &self.needs(stage),
            work,
            |place, error| -> Result<(), CompressError> {
                errors[place] = error;
                Ok(())
            },
        )?;
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
