//! Which of two ways to store a matrix is nearer to it, once rounded.

use super::error::CompressError;
use super::options::Compressor;
use crate::checkpoint::Checkpoint;
use crate::forms::Form;
use crate::plan::{MatrixPlan, RankPlan};
use crate::progress::{Part, Progress};

impl Compressor<'_> {
    /// The plan with two factors or pivots for each matrix, whichever is nearer to it as stored, by no
    /// more parameters than the plan has for it. The other storage has another rank then: the
    /// highest that these parameters pay for, within `rank_multiple`, `min_rank` and `max_rank` of the
    /// plan. Of two that are equally near, the planned one stays.
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
        let rivals: Vec<(usize, Form)> = plan
            .matrices
            .iter()
            .enumerate()
            .filter(|(_, matrix)| !checkpoint.is_convolution(&matrix.name))
            .filter_map(|(place, matrix)| Some((place, rival(matrix, &plan)?)))
            .collect();
        let costs: Vec<_> =
            rivals.iter().map(|(place, _)| self.cost(&plan.matrices[*place])).collect();
        let needs: Vec<u64> = costs.iter().map(|cost| cost.bytes).collect();
        let budget = self.write.budget;
        let names = rivals.iter().map(|(place, _)| plan.matrices[*place].name.as_str());
        budget.check(names.zip(needs.iter().copied()))?;
        let operations = costs.iter().fold(0, |sum: u64, cost| sum.saturating_add(cost.operations));
        progress.begin_work("comparing storages", rivals.len(), operations);
        progress.count_in("matrices");
        let mut wins = vec![false; rivals.len()];
        budget.workers().try_spread_within(
            budget.memory,
            &needs,
            |index| {
                let (place, rival) = rivals[index];
                self.is_nearer(checkpoint, &plan.matrices[place], rival)
            },
            |index, nearer| -> Result<(), CompressError> {
                wins[index] = nearer;
                let item = plan.matrices[rivals[index].0].name.as_str();
                let operations = costs[index].operations;
                Ok(progress.part(Part { item, steps: 1, operations, known: false })?)
            },
        )?;
        for ((place, form), _) in rivals.into_iter().zip(wins).filter(|(_, wins)| *wins) {
            let matrix = &mut plan.matrices[place];
            matrix.rank = form.rank().unwrap_or(matrix.rank);
            matrix.form = form;
        }
        plan.checked().map_err(|error| CompressError::ForeignPlan { reason: error.to_string() })
    }

    /// The number of matrices that [`choose_storage`](Self::choose_storage) compares, and of convolutions
    /// that it would if they had another storage: which those are, only a checkpoint says.
    pub fn storages_to_choose(&self) -> usize {
        self.plan.matrices.iter().filter(|matrix| rival(matrix, self.plan).is_some()).count()
    }

    /// Whether a matrix is nearer as stored in this form than in the planned one.
    fn is_nearer(
        &self,
        checkpoint: &Checkpoint,
        matrix: &MatrixPlan,
        rival: Form,
    ) -> Result<bool, CompressError> {
        let tensor = matrix.name.weight();
        let dense = checkpoint.read_matrix(&tensor)?;
        checkpoint.release(&tensor);
        let norm = self.norms.of(&matrix.name)?;
        let error = |form: Form| {
            let made = form.make_stored(&dense, &norm, matrix.dtype, self.rounding);
            made.map_err(CompressError::of_making(&matrix.name)).map(|made| made.error.stored_error)
        };
        Ok(error(rival)? < error(matrix.form)?)
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
