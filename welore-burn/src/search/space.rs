//! What is varied: a number for each group of matrices, and perhaps a slope over depth.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use super::run::Evaluation;
use super::{bayes, evolution};
use crate::linalg::LinalgError;
use crate::model::LanguageModel;
use crate::modules::MatrixName;
use crate::plan::SearchSpace;
use crate::spectrum::Spectra;

/// Logarithms of weights are kept within this, so that weights are finite.
const FURTHEST: f64 = 50.0;

/// No coordinate of a point is beyond this. Searches do not come near it, but a journal may be
/// damaged, and sums and squares of coordinates must be finite.
pub(super) const BOUND: f64 = 1e6;

/// The coordinates of a search. A point has the natural logarithm of the multiplier of each group,
/// and then the slope over depth if there is one.
#[derive(Debug)]
pub(super) struct Space {
    pub kind: SearchSpace,
    /// Names of the groups, in order.
    pub groups: Vec<String>,
    /// Every matrix with the number of its group, and its depth from -1 (the first block) to 1.
    matrices: Vec<(MatrixName, usize, f64)>,
}

impl Space {
    pub fn new(kind: SearchSpace, spectra: &Spectra, model: &impl LanguageModel) -> Self {
        let blocks: BTreeMap<MatrixName, usize> =
            model.matrices().into_iter().map(|matrix| (matrix.name, matrix.block)).collect();
        let last = model.blocks().saturating_sub(1).max(1) as f64;
        let depth = |name: &MatrixName| {
            blocks.get(name).map_or(0.0, |block| 2.0 * *block as f64 / last - 1.0)
        };
        let mut groups: Vec<String> =
            spectra.matrices.iter().map(|matrix| group_of(kind, &matrix.name)).collect();
        groups.sort_unstable();
        groups.dedup();
        let place = |name: &MatrixName| {
            let group = group_of(kind, name);
            groups.iter().position(|other| *other == group).unwrap_or_default()
        };
        let matrix = |name: &MatrixName| (name.clone(), place(name), depth(name));
        let matrices = spectra.matrices.iter().map(|spectrum| matrix(&spectrum.name)).collect();
        Self { kind, groups, matrices }
    }

    /// Whether there is a slope over depth.
    pub fn has_slope(&self) -> bool {
        self.kind == SearchSpace::Losses
    }

    /// Number of coordinates.
    pub fn size(&self) -> usize {
        self.groups.len() + usize::from(self.has_slope())
    }

    /// The weight of every matrix at a point.
    pub fn weights(&self, point: &[f64]) -> BTreeMap<MatrixName, f64> {
        let slope = self.slope(point).unwrap_or_default();
        let weight = |(name, group, depth): &(MatrixName, usize, f64)| {
            let log = point[*group] + slope * depth;
            (name.clone(), log.clamp(-FURTHEST, FURTHEST).exp())
        };
        self.matrices.iter().map(weight).collect()
    }

    /// The multiplier of each group at a point, by its name.
    pub fn multipliers(&self, point: &[f64]) -> BTreeMap<String, f64> {
        let multiplier = |log: &f64| log.clamp(-FURTHEST, FURTHEST).exp();
        self.groups.iter().cloned().zip(point.iter().map(multiplier)).collect()
    }

    /// The slope at a point.
    pub fn slope(&self, point: &[f64]) -> Option<f64> {
        point.get(self.groups.len()).copied().filter(|_| self.has_slope())
    }

    /// The point to measure next: it depends on nothing but the seed and on what was measured. The
    /// first one changes nothing.
    ///
    /// # Errors
    ///
    /// [`LinalgError`] if what was measured cannot be fitted.
    pub fn next(&self, seed: u64, history: &[Evaluation]) -> Result<Vec<f64>, LinalgError> {
        if history.is_empty() {
            return Ok(vec![0.0; self.size()]);
        }
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        random.set_stream(history.len() as u64);
        let centered = |point: Vec<f64>| self.centered(point);
        let point = match self.kind {
            SearchSpace::Losses => centered(evolution::next(history, &mut random)),
            SearchSpace::Ratios => bayes::next(history, centered, &mut random)?,
        };
        Ok(point.into_iter().map(|x| x.clamp(-BOUND, BOUND)).collect())
    }

    /// The same point with multipliers whose logarithms have the mean 0: a factor of all of them
    /// changes nothing.
    fn centered(&self, mut point: Vec<f64>) -> Vec<f64> {
        let logs = &mut point[..self.groups.len()];
        let mean = logs.iter().sum::<f64>() / logs.len().max(1) as f64;
        logs.iter_mut().for_each(|log| *log -= mean);
        point
    }
}

/// The group of a matrix. Kinds that no group is known for have one each.
fn group_of(kind: SearchSpace, name: &MatrixName) -> String {
    let own = name.kind();
    match (kind, own) {
        (SearchSpace::Ratios, "q_proj" | "k_proj") => "q_proj, k_proj".into(),
        (SearchSpace::Ratios, "gate_proj" | "up_proj") => "gate_proj, up_proj".into(),
        _ => own.into(),
    }
}
