use std::collections::BTreeMap;

use super::policy::{Loss, PolicyReads, RankPolicy, tails};
use super::problem::{Allocation, RankProblem};
use super::target::PlanError;
use crate::spectrum::{MatrixSpectrum, PROBE, Spectra};

/// [`Loss`], with the estimate of every matrix scaled by the cost measured in a probe of it.
///
/// Matrices of experts that see none of the probes' text have no such cost. Their estimates are scaled
/// by the median of the matrices of their kind that were probed, such as the same matrix of other
/// experts, or of all matrices if there are none of their kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Probed;

impl RankPolicy for Probed {
    fn name(&self) -> &'static str {
        "probed"
    }

    fn about(&self) -> &'static str {
        "as loss, but scaled by the cost measured in a probe of every matrix; of an expert that sees \
         none of the text, by the median of the same matrix of others"
    }

    fn reads(&self) -> PolicyReads {
        PolicyReads { probes: true, ..Loss.reads() }
    }

    fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        let medians = Medians::of(problem.spectra);
        problem.least_loss(|spectrum| {
            let scale = spectrum.measurement(PROBE).unwrap_or_else(|| medians.of_kind(spectrum));
            tails(spectrum).into_iter().map(|tail| tail * scale).collect()
        })
    }
}

/// The median of the probes of each kind of matrix, and of all.
struct Medians<'a> {
    of_kinds: BTreeMap<&'a str, f64>,
    of_all: f64,
}

impl<'a> Medians<'a> {
    fn of(spectra: &'a Spectra) -> Self {
        let mut by_kind: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for matrix in &spectra.matrices {
            let probes = matrix.measurement(PROBE).into_iter();
            by_kind.entry(matrix.name.kind()).or_default().extend(probes);
        }
        let all = by_kind.values().flatten().copied().collect();
        let of_kinds =
            by_kind.into_iter().filter_map(|(kind, probes)| Some((kind, median(probes)?)));
        Self { of_kinds: of_kinds.collect(), of_all: median(all).unwrap_or(1.0) }
    }

    fn of_kind(&self, spectrum: &MatrixSpectrum) -> f64 {
        self.of_kinds.get(spectrum.name.kind()).copied().unwrap_or(self.of_all)
    }
}

/// The lower one of the two in the middle of an even number; `None` of no numbers.
fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_one_of_the_numbers() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(1.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
    }
}
