//! From a model and a budget to a plan of forms, and to the directory that it describes.

use std::path::Path;

use anyhow::Result;
use welore_burn::calibrate::Calibration;
use welore_burn::compress::Compressor;
use welore_burn::eval::Estimate;
use welore_burn::model::{OpenedModel, load_model};
use welore_burn::plan::{Candidate, RankPlan};
use welore_burn::types::{check_form_budget, measure_stored, norms, plan_forms};

use super::matrices::{Dense, Matrices};
use super::problem::MEASURED;
use super::{Aim, Typing};
use crate::devices::Compute;
use crate::shared::card::name_of;
use crate::terminal::Bar;

/// A directory that is to be made, and the forms that its matrices may have.
#[derive(Debug)]
pub struct Mixed<'a> {
    matrices: Matrices<'a>,
    kinds: Vec<Candidate>,
    max_bytes: u64,
}

impl<'a> Mixed<'a> {
    /// Of an opened model, which has to be dense.
    pub fn of(
        typing: Typing<'a>,
        opened: &'a OpenedModel,
        kinds: &[Candidate],
        max_bytes: u64,
    ) -> Result<Self> {
        let (matrices, kinds) = (Matrices::of(typing, opened)?, kinds.to_vec());
        let types = &matrices.types;
        check_form_budget(&opened.checkpoint, &matrices.tensors, &kinds, types, max_bytes)?;
        Ok(Self { matrices, kinds, max_bytes })
    }

    /// The calibration; see [`Matrices::calibration`].
    pub fn calibration(&self, aim: &Aim, compute: &Compute, scratch: &Path) -> Result<Calibration> {
        self.matrices.calibration(aim, compute, scratch)
    }

    /// The best plan within the budget, for which costs are measured.
    pub fn plan(&self, calibration: &Calibration, dense: &mut Dense<'_>) -> Result<RankPlan> {
        let costs = self.matrices.form_costs(&self.kinds, calibration, dense)?;
        let source = name_of(&self.matrices.typing.model.to_string_lossy());
        let checkpoint = &self.matrices.opened.checkpoint;
        Ok(plan_forms(source, calibration.digest(), checkpoint, &costs, self.max_bytes)?)
    }

    /// What writes the directory, in the norms that costs were measured in.
    pub fn compressor<'p>(
        &self,
        plan: &'p RankPlan,
        calibration: &'p Calibration,
        shard_bytes: u64,
        compute: &Compute,
    ) -> Result<Compressor<'p>> {
        let options = self.matrices.cost_options(compute);
        let checkpoint = &self.matrices.opened.checkpoint;
        Ok(Compressor::new(plan)
            .with_norms(norms(checkpoint, calibration, &options)?)
            .with_budget(options.budget)
            .with_shard_bytes(shard_bytes))
    }

    /// What the model that was written loses.
    pub fn measure(
        &self,
        written: &Path,
        calibration: &Calibration,
        dense: &mut Dense<'_>,
    ) -> Result<Estimate> {
        let mut bar = Bar::default();
        let compute = dense.compute;
        let model = load_model(written, &compute.device, compute.dtype, &mut bar)?.model;
        bar.finish();
        let at_once = compute.at_once();
        let mut bar = Bar::for_subject("all matrices");
        let kl = measure_stored(&model, dense.get()?, calibration, MEASURED, at_once, &mut bar)?;
        bar.finish();
        Ok(kl)
    }
}
