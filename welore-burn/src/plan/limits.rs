//! Limits on what a matrix may become, whatever a policy would choose.

use std::fmt;

use super::problem::Choice;
use super::target::{PlanError, PlanOptions};
use crate::forms::Form;
use crate::modules::{MatrixName, Selection};
use crate::spectrum::MatrixSpectrum;

/// A form that is decided before the policy is asked, for all matrices that match a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// A pattern of matrix names, as in a [`Selection`].
    pub pattern: String,
    /// The rank at which the matrices are factored, below the full rank of each; `None` keeps them
    /// dense.
    pub rank: Option<usize>,
}

impl Constraint {
    /// Keeps the matrices that match a pattern dense.
    pub fn keep_dense(pattern: impl Into<String>) -> Self {
        Self { pattern: pattern.into(), rank: None }
    }

    /// Factors the matrices that match a pattern at this rank.
    pub fn set_rank(pattern: impl Into<String>, rank: usize) -> Self {
        Self { pattern: pattern.into(), rank: Some(rank) }
    }
}

/// What it asks for, as a part of a message.
impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rank {
            Some(rank) => write!(f, "`{}` sets rank {rank}", self.pattern),
            None => write!(f, "`{}` keeps it dense", self.pattern),
        }
    }
}

/// A limit that a form breaks. As text, what a matrix in that form would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    MinRank,
    MaxRank,
    NeverGrow,
    MinSaving,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MinRank => "would have a rank below min_rank",
            Self::MaxRank => "would have a rank above max_rank",
            Self::NeverGrow => "would grow, which never_grow forbids",
            Self::MinSaving => "would save less than min_saving",
        })
    }
}

impl PlanOptions {
    /// Checks the constraints against the matrices that will be planned, given by name and shape
    /// `[out, in]`: this needs no spectra, so it can come before they are measured. [`make_plan`]
    /// repeats it.
    ///
    /// # Errors
    ///
    /// [`PlanError::Pattern`], [`PlanError::UnmatchedPattern`] for a pattern that no matrix
    /// matches, and [`PlanError::Constraint`] for a matrix whose constraints disagree, or that
    /// cannot have the rank that is set.
    ///
    /// [`make_plan`]: super::make_plan
    pub fn check_matrices(&self, matrices: &[(MatrixName, [usize; 2])]) -> Result<(), PlanError> {
        let matrices: Vec<_> = matrices.iter().map(|(name, shape)| (name, *shape)).collect();
        self.fixed(&matrices).map(drop)
    }

    /// The choice for every matrix whose form is fixed; `None` where the policy chooses.
    pub(super) fn fixed(
        &self,
        matrices: &[(&MatrixName, [usize; 2])],
    ) -> Result<Vec<Option<Choice>>, PlanError> {
        let names: Vec<&str> = matrices.iter().map(|(name, _)| name.as_str()).collect();
        let mut found: Vec<Option<&Constraint>> = vec![None; matrices.len()];
        for constraint in &self.constraints {
            let selection = Selection::of([&constraint.pattern])?;
            if !selection.unmatched(&names).is_empty() {
                let pattern = constraint.pattern.clone();
                let meant = Selection::meant(&pattern, &names);
                return Err(PlanError::UnmatchedPattern { pattern, meant });
            }
            for (place, (name, _)) in found.iter_mut().zip(matrices) {
                if !selection.matches(name.as_str()) {
                    continue;
                }
                match *place {
                    Some(other) if other.rank != constraint.rank => {
                        let (name, reason) =
                            (MatrixName::clone(name), format!("{other}, but {constraint}"));
                        return Err(PlanError::Constraint { name, reason });
                    }
                    _ => *place = Some(constraint),
                }
            }
        }
        let choice = |(found, (name, shape)): (Option<&Constraint>, &(&MatrixName, [usize; 2]))| {
            found.map(|constraint| self.fixed_choice(name, *shape, constraint.rank)).transpose()
        };
        found.into_iter().zip(matrices).map(choice).collect()
    }

    /// The choice for a matrix that is kept dense, or gets a rank that is set.
    fn fixed_choice(
        &self,
        name: &MatrixName,
        shape: [usize; 2],
        rank: Option<usize>,
    ) -> Result<Choice, PlanError> {
        let full = shape[0].min(shape[1]);
        let Some(rank) = rank else { return Ok(Choice { rank: full, form: Form::dense() }) };
        let form = self.storage.at_rank(rank);
        let refuse = |reason| Err(PlanError::Constraint { name: name.clone(), reason });
        if rank == 0 || rank >= full {
            return refuse(format!("rank {rank} is not above 0 and below its full rank {full}"));
        }
        match self.broken_limit(shape, form) {
            // A rank that is set is wanted however little it saves.
            None | Some(Limit::MinSaving) => Ok(Choice { rank, form }),
            Some(limit) => refuse(format!("set to rank {rank}, it {limit}")),
        }
    }

    /// The form of a matrix at a rank, if the limits let it be factored there.
    pub(super) fn factored_at(&self, shape: [usize; 2], rank: usize) -> Option<Form> {
        let form = self.storage.at_rank(rank);
        let is_factored = rank < shape[0].min(shape[1]);
        (is_factored && self.broken_limit(shape, form).is_none()).then_some(form)
    }

    /// The highest rank at which the limits let a matrix be factored, and at which it costs less than
    /// the dense one; `None` if there is none.
    pub(crate) fn highest_rank(&self, spectrum: &MatrixSpectrum) -> Option<usize> {
        let dense = self.cost(spectrum, Form::dense());
        (1..spectrum.full_rank()).rev().find(|rank| {
            let form = self.factored_at(spectrum.shape, *rank);
            form.is_some_and(|form| self.cost(spectrum, form) < dense)
        })
    }

    /// The first limit that a matrix of shape `[out, in]` breaks in this form. `None` for a dense
    /// one.
    pub(super) fn broken_limit(&self, shape: [usize; 2], form: Form) -> Option<Limit> {
        let rank = form.rank()?;
        if rank < self.least_rank() {
            return Some(Limit::MinRank);
        }
        if self.max_rank.is_some_and(|most| rank > most) {
            return Some(Limit::MaxRank);
        }
        let (before, after) = (Form::dense().parameters(shape), form.parameters(shape));
        if self.never_grow && after > before {
            return Some(Limit::NeverGrow);
        }
        // A decimal share of the parameters may be just above a whole number in binary.
        let (saved, before) = (before as f64 - after as f64, before as f64);
        let is_little = saved < self.min_saving * before - 1e-9 * before;
        (self.min_saving > 0.0 && is_little).then_some(Limit::MinSaving)
    }

    /// The lowest rank of a factored matrix.
    pub(super) fn least_rank(&self) -> usize {
        self.min_rank.unwrap_or(1).max(1)
    }
}
