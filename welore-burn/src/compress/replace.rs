//! Matrices of a written directory that are replaced, with their errors.

use std::collections::BTreeMap;

use super::error::CompressError;
use super::job::Work;
use super::options::Compressor;
use super::report::CompressReport;
use crate::checkpoint::{Checkpoint, PLAN_FILE};
use crate::files::{OutputDir, write_file};
use crate::forms::Part;
use crate::linalg::Cost;
use crate::modules::MatrixName;
use crate::plan::MatrixPlan;
use crate::progress::{self, Progress};

impl Compressor<'_> {
    /// Replaces the content of some compressed matrices in a directory that
    /// [`directory`](Compressor::directory) has written from `checkpoint`, before it is committed, and
    /// measures their errors as stored again, for the plan there and for the report. Its journal is not
    /// told: a job that is resumed after that makes these matrices again.
    ///
    /// Where matrices follow the dense model, the norms that they were made in are gone, so their errors
    /// become [outdated](CompressReport::outdated).
    pub(crate) fn replace(
        &self,
        checkpoint: &Checkpoint,
        output: &OutputDir,
        parts: &BTreeMap<MatrixName, Vec<Part>>,
        report: &mut CompressReport,
        progress: &mut dyn Progress,
    ) -> Result<(), CompressError> {
        let follows = self.blockwise.as_ref().is_some_and(|options| options.follows());
        let mut replace = || -> Result<(), CompressError> {
            let work = self.work(checkpoint, &[], String::new())?;
            // What is measured first is lost if it is stopped, and nothing else.
            let errors = match follows {
                true => None,
                false => Some(self.errors_of(&work, parts, progress)?),
            };
            work.replace(output.path(), parts)?;
            match errors {
                Some(errors) => report.measured_again(&errors),
                None => report.outdated.extend(parts.keys().cloned()),
            }
            let plan = report.noted_in(self.plan).to_json();
            Ok(write_file(output.path().join(PLAN_FILE), plan.as_bytes())?)
        };
        replace().map_err(|error| error.about(output))
    }

    /// How far these parts are from the dense matrices, in their norms, as shares of these.
    fn errors_of(
        &self,
        work: &Work<'_>,
        parts: &BTreeMap<MatrixName, Vec<Part>>,
        progress: &mut dyn Progress,
    ) -> Result<BTreeMap<MatrixName, f64>, CompressError> {
        let replaced = self.plan.compressed();
        let replaced: Vec<(&MatrixPlan, &Vec<Part>)> =
            replaced.filter_map(|plan| Some((plan, parts.get(&plan.name)?))).collect();
        let costs: Vec<Cost> = replaced.iter().map(|(plan, _)| self.cost(plan)).collect();
        let needs: Vec<u64> = costs.iter().map(|cost| cost.bytes).collect();
        let operations = costs.iter().fold(0, |sum: u64, cost| sum.saturating_add(cost.operations));
        progress.begin_work("measuring errors", replaced.len(), operations);
        progress.count_in("matrices");
        let budget = self.write.budget;
        let mut errors = BTreeMap::new();
        budget.workers().try_spread_within(
            budget.memory,
            &needs,
            |index| -> Result<f64, CompressError> {
                let (plan, parts) = replaced[index];
                let tensor = plan.name.weight();
                let dense = work.checkpoint.read_matrix(&tensor)?;
                work.checkpoint.release(&tensor);
                let norm = work.norms.of(&plan.name)?;
                let error = plan.form.error_of(&dense, &norm, parts.clone());
                error.map_err(CompressError::of_making(&plan.name))
            },
            |index, error| -> Result<(), CompressError> {
                let (name, operations) = (&replaced[index].0.name, costs[index].operations);
                errors.insert(name.clone(), error);
                let item = name.as_str();
                Ok(progress.part(progress::Part { item, steps: 1, operations, known: false })?)
            },
        )?;
        work.checkpoint.check_unchanged()?;
        Ok(errors)
    }
}
