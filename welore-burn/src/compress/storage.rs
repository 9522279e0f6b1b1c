//! Which of two ways to store a matrix is nearer to it, once rounded.

use super::error::CompressError;
use super::options::Compressor;
use crate::checkpoint::Checkpoint;
use crate::forms::{Form, StoredError};
use crate::plan::{MatrixPlan, PlanFileError, PlanTotals, RankPlan};
use crate::progress::{Part, Progress};
use crate::spectrum::Method;

impl Compressor<'_> {
    /// The plan with two factors or pivots for each matrix, whichever is nearer to it as stored, by no
    /// more parameters than the plan has for it. The other storage has another rank then: the
    /// highest that these parameters pay for, within `rank_multiple`, `min_rank` and `max_rank` of the
    /// plan. Of two that are equally near, the planned one stays. What the plan is expected to cost
    /// follows, if it is in the norms of this compressor.
    ///
    /// Matrices in types wider than 16 bits stay as planned: their numbers lose nothing that matters, so
    /// pivots, whose parameters pay for more rank, are always nearer. So do matrices whose form is
    /// fixed, and convolutions, which are stored in two factors alone. Each of the others is made
    /// twice, in its norm, as if all others stayed dense.
    ///
    /// # Errors
    ///
    /// [`CompressError`].
    pub fn choose_storage(
        &self,
        checkpoint: &Checkpoint,
        progress: &mut dyn Progress,
    ) -> Result<RankPlan, CompressError> {
        let mut plan = self.plan.clone().without_errors();
        let rivals = self.rivals(checkpoint);
        let costs: Vec<_> =
            rivals.iter().map(|(place, _)| self.cost(&plan.matrices[*place])).collect();
        let needs: Vec<u64> = costs.iter().map(|cost| cost.bytes).collect();
        let budget = self.write.budget;
        let names = rivals.iter().map(|(place, _)| plan.matrices[*place].name.as_str());
        budget.check(names.zip(needs.iter().copied()))?;
        let operations = costs.iter().fold(0, |sum: u64, cost| sum.saturating_add(cost.operations));
        progress.begin_work("comparing storages", rivals.len(), operations);
        progress.count_in("matrices");
        let mut errors = vec![None; rivals.len()];
        budget.workers().try_spread_within(
            budget.memory,
            &needs,
            |index| {
                let (place, rival) = rivals[index];
                self.errors_as(checkpoint, &plan.matrices[place], rival)
            },
            |index, found| -> Result<(), CompressError> {
                errors[index] = Some(found);
                let item = plan.matrices[rivals[index].0].name.as_str();
                let operations = costs[index].operations;
                Ok(progress.part(Part { item, steps: 1, operations, known: false })?)
            },
        )?;
        let mut changes = Vec::new();
        for ((place, form), errors) in rivals.into_iter().zip(errors) {
            let Some([planned, nearer]) = errors else { continue };
            if nearer.stored_error < planned.stored_error {
                let matrix = &mut plan.matrices[place];
                matrix.rank = form.rank().unwrap_or(matrix.rank);
                matrix.form = form;
                changes.push((place, nearer.loss() - planned.loss()));
            }
        }
        let estimates = self.estimates(checkpoint, &changes, progress)?;
        let foreign =
            |error: PlanFileError| CompressError::ForeignPlan { reason: error.to_string() };
        let mut plan = plan.checked().map_err(foreign)?;
        [plan.totals.expected_loss, plan.totals.energy_lost] = estimates;
        Ok(plan)
    }

    /// The number of matrices that [`choose_storage`](Self::choose_storage) compares.
    pub fn storages_to_choose(&self, checkpoint: &Checkpoint) -> usize {
        self.rivals(checkpoint).len()
    }

    /// The places of the matrices that have a choice, each with its other form.
    fn rivals(&self, checkpoint: &Checkpoint) -> Vec<(usize, Form)> {
        let matrices = self.plan.matrices.iter().enumerate();
        matrices
            .filter(|(_, matrix)| !checkpoint.is_convolution(&matrix.name))
            .filter_map(|(place, matrix)| Some((place, rival(matrix, self.plan)?)))
            .collect()
    }

    /// The expected loss and the lost energy of the plan after changes of matrices, each with what half of
    /// the squared error rises by. Only what the norms measure is known.
    fn estimates(
        &self,
        checkpoint: &Checkpoint,
        changes: &[(usize, f64)],
        progress: &mut dyn Progress,
    ) -> Result<[Option<f64>; 2], CompressError> {
        let PlanTotals { expected_loss, energy_lost, .. } = self.plan.totals;
        if changes.is_empty() {
            return Ok([expected_loss, energy_lost]);
        }
        let mut names = changes.iter().map(|(place, _)| &self.plan.matrices[*place].name);
        let rise: f64 = changes.iter().map(|(_, rise)| rise).sum();
        let in_loss = names.all(|name| self.norms.is_of_loss(name));
        let loss = expected_loss.filter(|_| in_loss).map(|loss| loss + rise);
        let loss = loss.filter(|loss| loss.is_finite()).map(|loss| loss.max(0.0));
        let energy = energy_lost.filter(|_| self.norms.method() == Method::Svd);
        let energy = match energy {
            Some(lost) => {
                let all = self.energy(checkpoint, progress)?;
                Some(lost + 2.0 * rise / all).filter(|lost| lost.is_finite())
            }
            None => None,
        };
        Ok([loss, energy.map(|lost| lost.clamp(0.0, 1.0))])
    }

    /// The squared norm of all planned matrices.
    fn energy(
        &self,
        checkpoint: &Checkpoint,
        progress: &mut dyn Progress,
    ) -> Result<f64, CompressError> {
        let mut all = 0.0;
        for matrix in &self.plan.matrices {
            progress.check()?;
            let tensor = matrix.name.weight();
            all += checkpoint.read_matrix(&tensor)?.norm().powi(2);
            checkpoint.release(&tensor);
        }
        Ok(all)
    }

    /// The errors of a matrix in the planned form, and in this one.
    fn errors_as(
        &self,
        checkpoint: &Checkpoint,
        matrix: &MatrixPlan,
        rival: Form,
    ) -> Result<[StoredError; 2], CompressError> {
        let tensor = matrix.name.weight();
        let dense = checkpoint.read_matrix(&tensor)?;
        checkpoint.release(&tensor);
        let norm = self.norms.of(&matrix.name)?;
        let error = |form: Form| {
            let made = form.make_stored(&dense, &norm, matrix.dtype, self.rounding);
            made.map_err(CompressError::of_making(&matrix.name)).map(|made| made.error)
        };
        Ok([error(matrix.form)?, error(rival)?])
    }
}

/// The other storage of a matrix of low rank, at no more parameters; `None` if there is none to
/// choose.
fn rival(matrix: &MatrixPlan, plan: &RankPlan) -> Option<Form> {
    let shape = matrix.shape;
    if matrix.fixed || !matrix.form.is_rounded_in(shape, matrix.dtype) {
        return None;
    }
    let at_rank = matrix.form.in_other_storage()?;
    let parameters = matrix.form.parameters(shape);
    let most = plan.max_rank.unwrap_or(usize::MAX).min(shape[0].min(shape[1]) - 1);
    let fits = |rank: &usize| at_rank(*rank).parameters(shape) <= parameters;
    // Both have more parameters at more rank.
    let highest = highest_that(most, fits);
    let rank = highest - highest % plan.rank_multiple.max(1);
    (rank >= plan.min_rank.unwrap_or(1).max(1)).then(|| at_rank(rank))
}

/// The highest number up to `most` for which something holds that holds for all below it; 0 if it
/// holds for none.
fn highest_that(most: usize, holds: impl Fn(&usize) -> bool) -> usize {
    let (mut holding, mut failing) = (0, most + 1);
    while failing - holding > 1 {
        let middle = holding + (failing - holding) / 2;
        match holds(&middle) {
            true => holding = middle,
            false => failing = middle,
        }
    }
    holding
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;

    use super::*;
    use crate::spectrum::ModelSize;

    #[test]
    fn the_other_storage_has_the_highest_rank_that_the_parameters_pay_for() {
        for shape in [[64, 48], [48, 64], [200, 8]] {
            for rank in 1..shape[0].min(shape[1]) {
                for form in [Form::factors(rank), Form::pivot(rank)] {
                    let matrix = MatrixPlan::new("a", shape, form, Dtype::BF16);
                    let size = ModelSize { parameters: 1 << 20, bytes: 1 << 21 };
                    let plan = RankPlan::new("by hand", size, vec![matrix]).unwrap();
                    let Some(other) = rival(&plan.matrices[0], &plan) else {
                        assert_eq!((form, rank), (Form::pivot(rank), 1), "{shape:?}");
                        continue;
                    };
                    let parameters = form.parameters(shape);
                    assert!(other.parameters(shape) <= parameters, "{form} {other}");
                    let more = other.rank().unwrap() + 1;
                    let next = form.in_other_storage().unwrap()(more);
                    let is_last = more == shape[0].min(shape[1]);
                    assert!(is_last || next.parameters(shape) > parameters, "{form} {other}");
                }
            }
        }
        let wide = MatrixPlan::new("a", [64, 48], Form::pivot(9), Dtype::F32);
        let size = ModelSize { parameters: 1 << 20, bytes: 1 << 22 };
        let plan = RankPlan::new("by hand", size, vec![wide]).unwrap();
        assert_eq!(rival(&plan.matrices[0], &plan), None);
    }
}
