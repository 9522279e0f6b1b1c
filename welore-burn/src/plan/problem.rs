//! The ways to allocate ranks. A policy uses one of them.

use super::frontier::{Point, least_loss};
use super::target::{PlanError, PlanOptions, Target};
use crate::forms::Form;
use crate::spectrum::{MatrixSpectrum, Spectra};

/// Steps in which the share of ranks is found: as many as an f64 has digits, and some for its
/// exponent.
const BISECTIONS: usize = 80;

/// The smallest weight of a matrix, and the largest is its inverse: products with shares then stay
/// finite.
const LIGHTEST: f64 = 1e-100;

/// The problem that a policy solves: spectra, a target, and other options of the plan.
#[derive(Debug, Clone, Copy)]
pub struct RankProblem<'a> {
    /// The spectra.
    pub spectra: &'a Spectra,
    /// The target and the other options, already checked.
    pub options: &'a PlanOptions,
}

/// What a policy decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocation {
    /// Kept rank and form of every matrix, in the order of the spectra.
    pub choices: Vec<Choice>,
    /// Ranks that score below this were removed, if a threshold was used.
    pub threshold: Option<f64>,
    /// [`PlanOptions::min_ratio`], if it decided which matrices stay dense.
    pub min_ratio: Option<f64>,
}

/// Rank and form of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Kept rank, in `1..=full_rank`: that of the form if the form limits it.
    pub rank: usize,
    /// How the matrix is stored.
    pub form: Form,
}

impl RankProblem<'_> {
    /// Removes ranks over all matrices, lowest score first, until the target is met; then
    /// `min_ratio` decides which matrices are factored. `scores` returns one finite score per rank,
    /// in the order of the singular values, largest first; scores must never increase.
    ///
    /// An effective rank reduction is never exceeded and is met within one rank (with a rank
    /// multiple, within one multiple): of `N` ranks in total, the threshold is the `⌈err · N⌉`-th
    /// lowest score, and ranks that score below it are removed. An applied reduction is at least
    /// met, by the first cut at which the factored matrices have lost enough. Parameters and bytes
    /// are never exceeded. Ties are broken by name, so the order of the input is irrelevant. Every
    /// matrix keeps at least one rank, or `min_rank`. Matrices whose form is fixed count in the
    /// target, but their ranks are not removed.
    ///
    /// # Errors
    ///
    /// [`PlanError::OutOfReach`], [`PlanError::SetBeyond`], [`PlanError::Scores`], and those of
    /// impossible spectra and options.
    pub fn remove_lowest(
        &self,
        scores: impl Fn(&MatrixSpectrum) -> Vec<f64>,
    ) -> Result<Allocation, PlanError> {
        let scores = self.by_rank("scores", scores)?;
        let fixed = self.fixed()?;
        let options = self.options;
        let mut exact: Vec<usize> = self.full_ranks().collect();
        let mut size = Size::of(self, &fixed)?;
        for (score, index) in self.removal_order(scores, &fixed) {
            if size.is_met() {
                return Ok(self.by_threshold(&exact, &fixed, Some(score)));
            }
            if exact[index] <= options.least_rank() {
                continue;
            }
            let spectrum = &self.spectra.matrices[index];
            let rounded = |exact| options.rounded(exact, spectrum.full_rank());
            let (before, after) = (rounded(exact[index]), rounded(exact[index] - 1));
            if size.would_exceed(before - after) {
                return Ok(self.by_threshold(&exact, &fixed, Some(score)));
            }
            exact[index] -= 1;
            size.change(spectrum, options, before, after);
        }
        if size.is_met() || size.is_full() {
            return Ok(self.by_threshold(&exact, &fixed, None));
        }
        Err(self.out_of_reach(size.least(), &fixed))
    }

    /// Chooses a rank or the dense form for every matrix, with the smallest sum of losses that
    /// meets the target (a Lagrangian, exact up to the steps that do not fit). `losses` returns the
    /// loss at every rank from 1 on, finite and never increasing; a dense matrix loses nothing.
    ///
    /// Parameters and bytes are never exceeded; an effective rank reduction is at least met.
    /// Matrices whose form is fixed take their part of the budget. `min_ratio` is not used.
    ///
    /// # Errors
    ///
    /// [`PlanError::OutOfReach`], [`PlanError::Scores`], and those of impossible spectra and
    /// options.
    pub fn least_loss(
        &self,
        losses: impl Fn(&MatrixSpectrum) -> Vec<f64>,
    ) -> Result<Allocation, PlanError> {
        self.check()?;
        let fixed = self.fixed()?;
        let curves = self.curves(losses, &fixed)?;
        let points: Vec<Vec<Point>> =
            curves.iter().map(|curve| curve.iter().map(|(point, _)| *point).collect()).collect();
        let name = |index: usize| &self.spectra.matrices[index].name;
        let chosen = least_loss(&points, self.budget(), |a, b| name(a).cmp(name(b)))
            .map_err(|least| self.out_of_reach(least, &fixed))?;
        let choices = curves.iter().zip(chosen).map(|(curve, at)| curve[at].1).collect();
        Ok(Allocation { choices, threshold: None, min_ratio: None })
    }

    /// What every matrix may become, with its cost and its loss, in order of increasing cost: the one
    /// choice of a matrix whose form is `fixed`, at no loss, and of the others every rank that the
    /// limits allow and the dense form.
    pub(crate) fn curves(
        &self,
        losses: impl Fn(&MatrixSpectrum) -> Vec<f64>,
        fixed: &[Option<Choice>],
    ) -> Result<Vec<Vec<(Point, Choice)>>, PlanError> {
        let losses = self.by_rank("losses", losses)?;
        let curve_of = |(index, spectrum): (usize, &MatrixSpectrum)| match fixed[index] {
            Some(choice) => {
                let cost = self.options.cost(spectrum, choice.form);
                vec![(Point { cost, loss: 0.0 }, choice)]
            }
            None => curve(spectrum, &losses[index], self.options),
        };
        Ok(self.spectra.matrices.iter().enumerate().map(curve_of).collect())
    }

    /// Gives every matrix the same share of its ranks, times its weight: the largest share with which
    /// the target is met. A matrix whose rank would save nothing, or too little, stays dense.
    /// `weight` returns a finite number above 0; only ratios of weights matter.
    ///
    /// Parameters and bytes are never exceeded; an effective rank reduction is at least met. Of the
    /// matrices that would gain a rank next, as many do as fit, by name. `min_ratio` is not used.
    ///
    /// # Errors
    ///
    /// [`PlanError::OutOfReach`], [`PlanError::Scores`], and those of impossible spectra and
    /// options.
    pub fn by_ratio(
        &self,
        weight: impl Fn(&MatrixSpectrum) -> f64,
    ) -> Result<Allocation, PlanError> {
        self.check()?;
        let (weights, fixed) = (self.weights(weight)?, self.fixed()?);
        let matrices = &self.spectra.matrices;
        let at = |share: f64| -> Vec<Choice> {
            let choice = |(index, spectrum): (usize, &MatrixSpectrum)| {
                fixed[index].unwrap_or_else(|| self.at_share(spectrum, share * weights[index]))
            };
            matrices.iter().enumerate().map(choice).collect()
        };
        let cost_of = |index: usize, choice: Choice| -> u64 {
            self.options.cost(&matrices[index], choice.form)
        };
        let cost = |choices: &[Choice]| -> u64 {
            choices.iter().enumerate().map(|(index, choice)| cost_of(index, *choice)).sum()
        };
        let budget = self.budget();
        // At no share every matrix has its lowest rank, at the highest one it is dense.
        let (mut low, mut high) = (0.0, 1.0 / weights.iter().copied().fold(f64::MAX, f64::min));
        let (mut chosen, mut beyond) = (at(low), at(high));
        if cost(&chosen) > budget {
            return Err(self.out_of_reach(cost(&chosen), &fixed));
        }
        for _ in 0..BISECTIONS {
            let middle = 0.5 * (low + high);
            let found = at(middle);
            match cost(&found) <= budget {
                true => (low, chosen) = (middle, found),
                false => (high, beyond) = (middle, found),
            }
        }
        let mut spent = cost(&chosen);
        let mut order: Vec<usize> = (0..matrices.len()).collect();
        order.sort_by(|a, b| matrices[*a].name.cmp(&matrices[*b].name));
        for index in order {
            let rest = spent - cost_of(index, chosen[index]);
            let with = rest.saturating_add(cost_of(index, beyond[index]));
            if with <= budget {
                (chosen[index], spent) = (beyond[index], with);
            }
        }
        Ok(Allocation { choices: chosen, threshold: None, min_ratio: None })
    }

    /// The weights that a policy gives the matrices, checked.
    fn weights(&self, weight: impl Fn(&MatrixSpectrum) -> f64) -> Result<Vec<f64>, PlanError> {
        let checked = |spectrum: &MatrixSpectrum| match weight(spectrum) {
            weight if (LIGHTEST..=1.0 / LIGHTEST).contains(&weight) => Ok(weight),
            weight => {
                let reason = format!("a weight of {weight}, which is not above 0 and finite");
                Err(PlanError::Scores { name: spectrum.name.clone(), reason })
            }
        };
        self.spectra.matrices.iter().map(checked).collect()
    }

    /// The choice for a matrix that keeps this share of its ranks, or a little more.
    fn at_share(&self, spectrum: &MatrixSpectrum, share: f64) -> Choice {
        let (full, options) = (spectrum.full_rank(), self.options);
        let dense = Choice { rank: full, form: Form::dense() };
        // A float beyond the range saturates.
        let exact = ((share * full as f64) as usize).max(options.least_rank()).min(full);
        let rank = options.rounded(exact, full);
        match options.factored_at(spectrum.shape, rank) {
            Some(form) if options.cost(spectrum, form) < options.cost(spectrum, dense.form) => {
                Choice { rank, form }
            }
            _ => dense,
        }
    }

    /// Checks spectra and options: all their fields are public.
    pub(super) fn check(&self) -> Result<(), PlanError> {
        self.options.check()?;
        self.spectra.check().map_err(|error| PlanError::Spectra { reason: error.to_string() })
    }

    /// The choice for every matrix whose form is fixed; `None` where the policy chooses.
    pub(crate) fn fixed(&self) -> Result<Vec<Option<Choice>>, PlanError> {
        let matrices = self.spectra.matrices.iter();
        let matrices: Vec<_> = matrices.map(|spectrum| (&spectrum.name, spectrum.shape)).collect();
        self.options.fixed(&matrices)
    }

    /// The numbers that a policy gives every rank of every matrix, checked.
    fn by_rank(
        &self,
        what: &str,
        numbers: impl Fn(&MatrixSpectrum) -> Vec<f64>,
    ) -> Result<Vec<Vec<f64>>, PlanError> {
        self.check()?;
        let checked = |spectrum: &MatrixSpectrum| {
            let (numbers, full) = (numbers(spectrum), spectrum.full_rank());
            // Sums may be a little off.
            let rises = |pair: &[f64]| pair[1] - pair[0] > 1e-9 * pair[0].abs().max(pair[1].abs());
            let reason = if numbers.len() != full {
                format!("{} {what} for {full} ranks", numbers.len())
            } else if numbers.iter().any(|x| !x.is_finite()) {
                format!("{what} that are not finite")
            } else if numbers.windows(2).any(rises) {
                format!("{what} that increase with the rank")
            } else {
                return Ok(numbers);
            };
            Err(PlanError::Scores { name: spectrum.name.clone(), reason })
        };
        self.spectra.matrices.iter().map(checked).collect()
    }

    fn full_ranks(&self) -> impl Iterator<Item = usize> + '_ {
        self.spectra.matrices.iter().map(MatrixSpectrum::full_rank)
    }

    /// The maximum cost of all matrices together.
    pub(crate) fn budget(&self) -> u64 {
        let spectra = self.spectra;
        match self.options.target {
            Target::Err(err) | Target::ErrApplied(err) => {
                let ranks = self.full_ranks().sum::<usize>() as f64;
                // A decimal share of the ranks may fall just below a whole number in binary.
                ((1.0 - err) * ranks + 1e-9 * ranks).floor() as u64
            }
            Target::KeepParams(share) => {
                let planned: u64 = spectra.matrices.iter().map(MatrixSpectrum::parameters).sum();
                (share * planned as f64).floor() as u64
            }
            Target::MaxBytes(bytes) => {
                let dense = |spectrum| self.options.cost(spectrum, Form::dense());
                let planned: u64 = spectra.matrices.iter().map(dense).sum();
                bytes.saturating_sub(spectra.model.bytes.saturating_sub(planned))
            }
        }
    }

    /// The target that a cost of all matrices would meet.
    fn in_units_of_the_target(&self, cost: u64) -> Target {
        let spectra = self.spectra;
        match self.options.target {
            Target::Err(_) => Target::Err(self.reduction_at(cost)),
            Target::ErrApplied(_) => Target::ErrApplied(self.reduction_at(cost)),
            Target::KeepParams(_) => {
                let planned: u64 = spectra.matrices.iter().map(MatrixSpectrum::parameters).sum();
                Target::KeepParams(cost as f64 / planned as f64)
            }
            Target::MaxBytes(_) => {
                let dense = |spectrum| self.options.cost(spectrum, Form::dense());
                let planned: u64 = spectra.matrices.iter().map(dense).sum();
                Target::MaxBytes(spectra.model.bytes.saturating_sub(planned) + cost)
            }
        }
    }

    /// The effective rank reduction at which this many ranks are left.
    fn reduction_at(&self, ranks: u64) -> f64 {
        1.0 - ranks as f64 / self.full_ranks().sum::<usize>() as f64
    }

    pub(crate) fn out_of_reach(&self, least: u64, fixed: &[Option<Choice>]) -> PlanError {
        let reachable = self.in_units_of_the_target(least);
        let fixed = fixed.iter().flatten().count();
        let PlanOptions { target, rank_multiple, min_rank, .. } = *self.options;
        PlanError::OutOfReach { target, reachable, rank_multiple, min_rank, fixed }
    }

    /// `None` for a threshold if there is nothing left to remove.
    fn by_threshold(
        &self,
        exact: &[usize],
        fixed: &[Option<Choice>],
        threshold: Option<f64>,
    ) -> Allocation {
        let choice = |(index, spectrum): (usize, &MatrixSpectrum)| {
            fixed[index].unwrap_or_else(|| {
                let rank = self.options.rounded(exact[index], spectrum.full_rank());
                Choice { rank, form: self.options.form_at(spectrum, rank) }
            })
        };
        let choices = self.spectra.matrices.iter().enumerate().map(choice).collect();
        Allocation { choices, threshold, min_ratio: Some(self.options.min_ratio) }
    }

    /// Every rank that may be removed, as its score and its matrix, in the order of removal: lowest
    /// score first, ties by name.
    fn removal_order(&self, scores: Vec<Vec<f64>>, fixed: &[Option<Choice>]) -> Vec<(f64, usize)> {
        let mut order = Vec::new();
        let of_policy = scores.into_iter().enumerate().filter(|(index, _)| fixed[*index].is_none());
        for (index, scores) in of_policy {
            order.extend(scores.into_iter().map(|score| (score, index)));
        }
        let name = |index: usize| &self.spectra.matrices[index].name;
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| name(a.1).cmp(name(b.1))));
        order
    }
}

/// The size of the matrices while ranks are removed.
enum Size {
    /// Numbers of ranks: removed so far, removed at most, and in total.
    Ranks { removed: usize, most: usize, of: usize },
    /// The current cost, the maximum cost, and the lowest cost so far.
    Cost { cost: u64, budget: u64, least: u64 },
}

impl Size {
    /// The size before the first rank is removed.
    fn of(problem: &RankProblem<'_>, fixed: &[Option<Choice>]) -> Result<Self, PlanError> {
        let options = problem.options;
        if let Target::Err(err) = options.target {
            let of: usize = problem.full_ranks().sum();
            let most = ((err * of as f64).ceil() as usize).saturating_sub(1);
            let set = problem.full_ranks().zip(fixed);
            let removed: usize =
                set.map(|(full, set)| set.map_or(0, |choice| full - choice.rank)).sum();
            // All ranks may be set, just as many as are asked for.
            if removed > most + 1 {
                return Err(PlanError::SetBeyond { err, removed: removed as f64 / of as f64 });
            }
            return Ok(Self::Ranks { removed, most, of });
        }
        let form = |index: usize| fixed[index].map_or(Form::dense(), |choice| choice.form);
        let matrices = problem.spectra.matrices.iter().enumerate();
        let cost = matrices.map(|(index, spectrum)| options.cost(spectrum, form(index))).sum();
        Ok(Self::Cost { cost, budget: problem.budget(), least: cost })
    }

    fn is_met(&self) -> bool {
        matches!(self, Self::Cost { cost, budget, .. } if cost <= budget)
    }

    /// Whether no further rank may be removed.
    fn is_full(&self) -> bool {
        matches!(self, Self::Ranks { removed, most, .. } if removed >= most)
    }

    fn would_exceed(&self, ranks: usize) -> bool {
        matches!(self, Self::Ranks { removed, most, .. } if removed + ranks > *most)
    }

    fn change(&mut self, of: &MatrixSpectrum, options: &PlanOptions, before: usize, after: usize) {
        match self {
            Self::Ranks { removed, .. } => *removed += before - after,
            Self::Cost { cost, least, .. } => {
                let at = |rank| options.cost(of, options.form_at(of, rank));
                *cost = *cost - at(before) + at(after);
                *least = (*least).min(*cost);
            }
        }
    }

    /// The lowest cost so far.
    fn least(&self) -> u64 {
        match *self {
            Self::Ranks { removed, of, .. } => (of - removed) as u64,
            Self::Cost { least, .. } => least,
        }
    }
}

/// The loss of a matrix at every cost, in order of increasing cost; the last point is dense.
fn curve(spectrum: &MatrixSpectrum, losses: &[f64], options: &PlanOptions) -> Vec<(Point, Choice)> {
    let full = spectrum.full_rank();
    let dense = options.cost(spectrum, Form::dense());
    // A rank that costs as much as the dense matrix is useless. Where ranks are counted, factors may
    // still be larger than the matrix, unless the limits forbid it.
    let mut points: Vec<(Point, Choice)> = (1..full)
        .filter(|rank| rank % options.rank_multiple == 0)
        .filter_map(|rank| {
            let form = options.factored_at(spectrum.shape, rank)?;
            let cost = options.cost(spectrum, form);
            Some((Point { cost, loss: losses[rank - 1] }, Choice { rank, form }))
        })
        .take_while(|(point, _)| point.cost < dense)
        .collect();
    let choice = Choice { rank: full, form: Form::dense() };
    points.push((Point { cost: dense, loss: 0.0 }, choice));
    points
}
