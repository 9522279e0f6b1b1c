use std::collections::{BTreeMap, BTreeSet};

use crate::forms::StoredError;
use crate::modules::MatrixName;
use crate::plan::{MatrixPlan, RankPlan};

/// What was compressed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CompressReport {
    /// One entry per matrix whose form has changed, in the model's order.
    pub compressed: Vec<CompressedMatrix>,
    /// The matrices that stayed dense, but have other entries, which make up for what was lost before
    /// them; in the model's order. See [`BlockwiseOptions::adapt_dense`](super::BlockwiseOptions).
    pub adapted: Vec<MatrixName>,
    /// Whether each matrix was made for the inputs that those before it left. See
    /// [`BlockwiseOptions::follow`](super::BlockwiseOptions).
    pub sequential: bool,
    /// The compressed matrices whose errors are those of before a step ([`distill`](crate::distill)).
    /// They were made for the inputs that they have in the compressed model, so the norm of their
    /// errors is not known any more. Those of all others are measured again.
    pub outdated: BTreeSet<MatrixName>,
}

/// One compressed matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct CompressedMatrix {
    /// Name of the matrix: the path of its weight without `.weight`.
    pub name: MatrixName,
    /// Its new rank.
    pub rank: usize,
    /// `‖W - W_k‖ / ‖W‖` in the norm in which it was factored: the Frobenius norm, or one of a
    /// calibration. Measured before refinement and before rounding to a stored type.
    pub relative_error: f64,
    /// The same of what is stored, in its type, after refinement, and after a step
    /// ([`distill`](crate::distill)), unless it is [outdated](CompressReport::outdated).
    pub stored_error: f64,
    /// `‖W‖` in this norm.
    pub size: f64,
    /// Whether half of a squared error in this norm is a rise of the loss in nats per token.
    pub in_loss: bool,
}

impl CompressedMatrix {
    pub(super) fn new(plan: &MatrixPlan, error: StoredError, in_loss: bool) -> Self {
        let StoredError { relative_error, stored_error, size } = error;
        let (name, rank) = (plan.name.clone(), plan.rank);
        Self { name, rank, relative_error, stored_error, size, in_loss }
    }

    /// How far it is from the dense matrix.
    pub fn error(&self) -> StoredError {
        let Self { relative_error, stored_error, size, .. } = *self;
        StoredError { relative_error, stored_error, size }
    }

    /// How much it is expected to raise the loss in nats per token, to second order, as computed and as
    /// stored; `None` if it was made in another norm than that of the loss.
    pub fn losses(&self) -> Option<[f64; 2]> {
        self.in_loss.then(|| [self.error().loss(), self.error().stored_loss()])
    }
}

impl CompressReport {
    /// Adds a matrix that was made by this plan.
    pub(super) fn add(&mut self, plan: &MatrixPlan, error: StoredError, in_loss: bool) {
        match plan.is_dense() {
            true => self.adapted.push(plan.name.clone()),
            false => self.compressed.push(CompressedMatrix::new(plan, error, in_loss)),
        }
    }

    /// Puts errors of what is stored in the place of earlier ones.
    pub(super) fn measured_again(&mut self, errors: &BTreeMap<MatrixName, f64>) {
        for matrix in &mut self.compressed {
            if let Some(error) = errors.get(&matrix.name) {
                matrix.stored_error = *error;
            }
        }
    }

    /// The sums of [`CompressedMatrix::losses`]; `None` if one of them is not known, and if nothing was
    /// compressed.
    pub fn losses(&self) -> Option<[f64; 2]> {
        let mut sums = [0.0; 2];
        for matrix in &self.compressed {
            let [computed, stored] = matrix.losses()?;
            sums = [sums[0] + computed, sums[1] + stored];
        }
        (!self.compressed.is_empty()).then_some(sums)
    }

    /// `‖W - W'‖ / ‖W‖` of all matrices together, as computed and as stored; `None` if nothing was
    /// compressed, or everything is zero.
    pub fn relative_errors(&self) -> Option<[f64; 2]> {
        let sum = |of: &dyn Fn(&StoredError) -> f64| -> f64 {
            self.compressed.iter().map(|matrix| of(&matrix.error()).powi(2)).sum()
        };
        let size = sum(&|error| error.size);
        let share =
            |of: &dyn Fn(&StoredError) -> f64| (sum(&|error| of(error) * error.size) / size).sqrt();
        let errors = [share(&|error| error.relative_error), share(&|error| error.stored_error)];
        errors.iter().all(|error| error.is_finite()).then_some(errors)
    }

    /// The plan that was carried out, with the errors of what was made, except outdated ones, with the
    /// dense matrices that were adapted, and with whether it was done in the order of use.
    pub fn noted_in(&self, plan: &RankPlan) -> RankPlan {
        let mut plan = plan.clone().without_errors();
        plan.sequential = self.sequential;
        let losses = self.losses().filter(|_| self.outdated.is_empty());
        plan.totals.stored_loss = losses.map(|[_, stored]| stored).filter(|x| x.is_finite());
        let known = self.compressed.iter().filter(|matrix| !self.outdated.contains(&matrix.name));
        let errors: BTreeMap<&MatrixName, StoredError> =
            known.map(|matrix| (&matrix.name, matrix.error())).collect();
        let adapted: BTreeSet<&MatrixName> = self.adapted.iter().collect();
        for matrix in &mut plan.matrices {
            matrix.adapted = adapted.contains(&matrix.name);
            matrix.error = errors.get(&matrix.name).copied().filter(StoredError::is_possible);
        }
        plan
    }
}
