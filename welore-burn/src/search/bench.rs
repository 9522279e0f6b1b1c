//! What a plan does to the model, measured.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use super::components::Components;
use super::error::SearchError;
use super::run::{SearchJob, SearchOptions};
use crate::eval::{EvalError, LogitsError, LogitsSource, SavedLogits, save_logits};
use crate::files::FileError;
use crate::forms::{Form, LiveMatrix, Rest, attach, matrices};
use crate::linalg::{BalancedFactors, Cost};
use crate::model::LanguageModel;
use crate::modules::MatrixName;
use crate::plan::RankPlan;
use crate::progress::{Interrupted, Part, Progress};
use crate::spectrum::MatrixSpectrum;

/// Everything that plans have in common: what the dense model predicts, and the components of its
/// matrices.
pub(super) struct Bench<'a, M> {
    job: &'a SearchJob<'a, M>,
    options: &'a SearchOptions,
    matrices: BTreeMap<MatrixName, LiveMatrix>,
    components: Components,
    dense: SavedLogits,
    /// Removed after the files in it are closed.
    _scratch: TempDir,
}

/// A matrix to decompose.
struct Wanted<'a> {
    matrix: &'a LiveMatrix,
    rank: usize,
    cost: Cost,
}

impl<'a, M: LanguageModel> Bench<'a, M> {
    /// Runs the dense model on the text.
    pub fn new(
        job: &'a SearchJob<'a, M>,
        options: &'a SearchOptions,
        progress: &mut dyn Progress,
    ) -> Result<Self, SearchError> {
        let named = |matrix: LiveMatrix| (matrix.name.clone(), matrix);
        let matrices: BTreeMap<_, _> = matrices(job.model).into_iter().map(named).collect();
        for MatrixSpectrum { name, .. } in &job.spectra.matrices {
            let matrix =
                matrices.get(name).ok_or_else(|| SearchError::Missing { name: name.clone() })?;
            matrix
                .check_dense()
                .map_err(|source| SearchError::Form { name: name.clone(), source })?;
        }
        let place = &options.scratch;
        let scratch = tempfile::Builder::new().prefix("welore-search-").tempdir_in(place);
        let scratch = scratch.map_err(FileError::io(place))?;
        let dense = logits_of(job, options, scratch.path(), progress)?;
        let components = Components::new(scratch.path(), options.memory);
        Ok(Self { job, options, matrices, components, dense, _scratch: scratch })
    }

    /// The mean KL divergence of the plan's model from the dense one, in nats per token; `None` if
    /// its predictions are not finite. Progress calls it `what`.
    pub fn kl(
        &mut self,
        plan: &RankPlan,
        what: String,
        progress: &mut dyn Progress,
    ) -> Result<Option<f64>, SearchError> {
        self.decompose(plan, progress)?;
        let model = self.model(plan)?;
        let (tokens, measuring) = (self.job.tokens, &self.options.measuring);
        let mut progress = Renamed { what, progress };
        match self.dense.divergence(&model, tokens, measuring, &mut progress) {
            Ok(measured) => Ok(Some(measured.kl.value)),
            Err(LogitsError::Eval(EvalError::NotFinite { .. })) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Decomposes the matrices of which the plan needs more components than there are.
    fn decompose(
        &mut self,
        plan: &RankPlan,
        progress: &mut dyn Progress,
    ) -> Result<(), SearchError> {
        let Self { job, options, matrices, components, .. } = self;
        let (job, budget) = (*job, options.budget);
        let wanted = wanted(job, matrices, components, plan);
        if wanted.is_empty() {
            return Ok(());
        }
        let needs: Vec<u64> = wanted.iter().map(|wanted| wanted.cost.bytes).collect();
        let names = wanted.iter().map(|wanted| wanted.matrix.name.as_str());
        budget.check(names.zip(needs.iter().copied()))?;
        let operations = wanted.iter().map(|wanted| wanted.cost.operations);
        let operations = operations.fold(0, u64::saturating_add);
        progress.begin_work("decomposing", wanted.len(), operations);
        progress.count_in("matrices");
        budget.workers().try_spread_within(
            budget.memory,
            &needs,
            |index| factors(job, &wanted[index]),
            |index, factors| -> Result<(), SearchError> {
                let Wanted { matrix, cost, .. } = &wanted[index];
                components.keep(&matrix.name, &factors)?;
                let (item, operations) = (matrix.name.as_str(), cost.operations);
                Ok(progress.part(Part { item, steps: 1, operations, known: false })?)
            },
        )
    }

    /// The model of a plan whose matrices are decomposed.
    fn model(&mut self, plan: &RankPlan) -> Result<M, SearchError> {
        let ranks: BTreeMap<&MatrixName, usize> = plan
            .matrices
            .iter()
            .filter_map(|planned| Some((&planned.name, planned.form.rank()?)))
            .collect();
        let components = &mut self.components;
        let mut failed = None;
        let choose = |name: &MatrixName| {
            let rank = *ranks.get(name)?;
            match components.parts(name, rank) {
                // Storage changes nothing of what is computed but rounding.
                Ok(parts) => Some((Form::factors(rank), parts)),
                Err(error) => {
                    failed.get_or_insert(error);
                    None
                }
            }
        };
        let made = attach(self.job.model.clone(), choose, Rest::Keep);
        let model = made.map_err(|(name, source)| SearchError::Form { name, source })?;
        failed.map_or(Ok(model), Err)
    }
}

/// The matrices to decompose for a plan, at the highest rank that any plan gives them.
fn wanted<'m, M>(
    job: &SearchJob<'_, M>,
    matrices: &'m BTreeMap<MatrixName, LiveMatrix>,
    components: &Components,
    plan: &RankPlan,
) -> Vec<Wanted<'m>> {
    let pairs = plan.matrices.iter().zip(&job.spectra.matrices);
    let wanted = pairs.filter_map(|(planned, spectrum)| {
        let asked = planned.form.rank()?;
        if asked <= components.rank(&planned.name) {
            return None;
        }
        let highest = if planned.fixed { None } else { job.options.highest_rank(spectrum) };
        let rank = highest.unwrap_or(0).max(asked);
        let cost =
            Cost::of_factors(planned.shape, rank) + job.norms.cost(&planned.name, planned.shape);
        Some(Wanted { matrix: matrices.get(&planned.name)?, rank, cost })
    });
    wanted.collect()
}

/// Writes what the dense model predicts, and opens it.
fn logits_of<M: LanguageModel>(
    job: &SearchJob<'_, M>,
    options: &SearchOptions,
    dir: &Path,
    progress: &mut dyn Progress,
) -> Result<SavedLogits, SearchError> {
    let path = dir.join("logits");
    let source = LogitsSource { model: job.spectra.source.clone(), model_digest: String::new() };
    let mut progress = Renamed { what: "dense model".into(), progress };
    save_logits(&path, job.model, &source, job.tokens, &options.measuring, &mut progress)?;
    Ok(SavedLogits::open(&path)?)
}

fn factors<M>(job: &SearchJob<'_, M>, wanted: &Wanted<'_>) -> Result<BalancedFactors, SearchError> {
    let name = &wanted.matrix.name;
    let dense = wanted.matrix.to_matrix();
    let dense = dense.map_err(|source| SearchError::Form { name: name.clone(), source })?;
    let made = job.norms.of(name)?.factors(&dense, wanted.rank);
    made.map_err(|source| SearchError::Linalg { name: name.clone(), source })
}

/// Progress of work that has another name here.
struct Renamed<'a> {
    what: String,
    progress: &'a mut dyn Progress,
}

impl Progress for Renamed<'_> {
    fn begin(&mut self, _what: &str, total: usize) {
        self.progress.begin(&self.what, total);
        self.progress.count_in("windows");
    }

    fn step(&mut self, item: &str) -> Result<(), Interrupted> {
        self.progress.step(item)
    }

    fn check(&mut self) -> Result<(), Interrupted> {
        self.progress.check()
    }
}
