use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::GradientRecord;
use crate::artifact::{Header, in_words};
use crate::modules::{MatrixName, natural_order};

const FORMAT: &str = "welore-gradients";
const VERSION: u32 = 1;

/// A matrix has settled when its similarity stays at or above this share of its level.
pub const SETTLED_SHARE: f64 = 0.8;

/// The number of similarities in a row whose mean decides that: a single one has the noise of its
/// batch.
pub const SETTLED_WINDOW: usize = 3;

/// The level of a similarity is its mean over the last of this many parts of a run.
const PARTS: usize = 4;

/// A level below this many times the similarity of random subspaces means that no subspace
/// persists.
const ABOVE_CHANCE: f64 = 2.0;

/// Share of the sum of all squared singular values that the effective rank of a weight keeps.
const ENERGY: f64 = 0.9;

/// How the gradients of a run developed, matrix by matrix, and the ranks of the final weights: the
/// file `gradients.json` of a run directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradientDynamics {
    format: String,
    version: u32,
    /// One entry per matrix, in the model's order.
    pub matrices: Vec<MatrixDynamics>,
}

/// How the gradient of one matrix developed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixDynamics {
    /// The matrix, as in [`GradientRecord`].
    pub name: MatrixName,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Dimension of the subspaces that were compared.
    pub rank: usize,
    /// Mean similarity of successive subspaces.
    pub similarity: Option<f64>,
    /// Mean over the last quarter of them: the level at which the similarity ends.
    pub level: Option<f64>,
    /// The first recorded step from which the mean of [`SETTLED_WINDOW`] similarities in a row
    /// (fewer at the beginning) stays at or above [`SETTLED_SHARE`] of the level. `None` if it does
    /// not, or if the level is below twice `rank / min(out, in)`, the average similarity of random
    /// subspaces: then no subspace persists.
    pub settled: Option<usize>,
    /// Mean stable rank of the gradient.
    pub stable_rank: f64,
    /// Ranks of the final weight, if it was decomposed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<WeightRank>,
}

/// How low-rank a weight is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightRank {
    /// Effective rank: the smallest number of singular values that hold 90% of the sum of all
    /// squares. The best approximation at this rank has a relative error of at most `√0.1`.
    pub effective: usize,
    /// The effective rank as a share of the full one.
    pub share: f64,
    /// Stable rank: Frobenius norm over spectral norm, squared.
    pub stable: f64,
}

/// Why a summary of gradients cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DynamicsError {
    /// Not JSON, or not of this layout.
    #[error("not a summary of gradients: {}", in_words(.0))]
    Json(#[from] serde_json::Error),
    /// Some other JSON file.
    #[error("not a summary of gradients: its format is `{0}`, not `{FORMAT}`")]
    Format(String),
    /// Written by a newer version.
    #[error(
        "summaries of gradients of version {0} are not supported (only up to version {VERSION})"
    )]
    Version(u32),
}

impl GradientDynamics {
    /// Summarizes the records of a run, given in any order.
    pub fn of(records: &[GradientRecord]) -> Self {
        let mut by_name: BTreeMap<&MatrixName, Vec<&GradientRecord>> = BTreeMap::new();
        for record in records {
            by_name.entry(&record.name).or_default().push(record);
        }
        let mut matrices: Vec<MatrixDynamics> =
            by_name.into_values().filter_map(MatrixDynamics::of).collect();
        matrices.sort_by(|a, b| natural_order(a.name.as_str(), b.name.as_str()));
        Self { format: FORMAT.into(), version: VERSION, matrices }
    }

    /// Adds the ranks of the final weights: `values_of` gives the singular values of a matrix,
    /// largest first.
    pub fn set_weights<'a>(&mut self, values_of: impl Fn(&MatrixName) -> Option<&'a [f64]>) {
        for matrix in &mut self.matrices {
            matrix.weight = values_of(&matrix.name).map(WeightRank::of);
        }
    }

    /// Reads the text of a summary.
    ///
    /// # Errors
    ///
    /// [`DynamicsError`] if it is not one.
    pub fn from_json(text: &str) -> Result<Self, DynamicsError> {
        let header = Header::of(text)?;
        if header.format != FORMAT {
            return Err(DynamicsError::Format(header.format));
        }
        if header.version != VERSION {
            return Err(DynamicsError::Version(header.version));
        }
        Ok(serde_json::from_str(text)?)
    }

    /// The text of the summary.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings always serialize")
    }
}

impl MatrixDynamics {
    /// `None` without records.
    fn of(mut records: Vec<&GradientRecord>) -> Option<Self> {
        records.sort_by_key(|record| record.step);
        let last = *records.last()?;
        let similarities: Vec<(usize, f64)> =
            records.iter().filter_map(|record| Some((record.step, record.similarity?))).collect();
        let values: Vec<f64> = similarities.iter().map(|(_, similarity)| *similarity).collect();
        let level = mean(&values[values.len() - values.len().div_ceil(PARTS)..]);
        let chance = last.rank as f64 / last.full_rank.max(1) as f64;
        let settled = level
            .filter(|level| *level >= ABOVE_CHANCE * chance)
            .and_then(|level| settled(&similarities, level));
        let stable_ranks: Vec<f64> = records.iter().map(|record| record.stable_rank).collect();
        Some(Self {
            name: last.name.clone(),
            shape: last.shape,
            rank: last.rank,
            similarity: mean(&values),
            level,
            settled,
            stable_rank: mean(&stable_ranks)?,
            weight: None,
        })
    }
}

/// See [`MatrixDynamics::settled`].
fn settled(similarities: &[(usize, f64)], level: f64) -> Option<usize> {
    let stays = |end: usize| {
        let window = &similarities[(end + 1).saturating_sub(SETTLED_WINDOW)..=end];
        let sum: f64 = window.iter().map(|(_, similarity)| similarity).sum();
        sum >= SETTLED_SHARE * level * window.len() as f64
    };
    let first = (0..similarities.len()).rev().take_while(|end| stays(*end)).last()?;
    Some(similarities[first].0)
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

impl WeightRank {
    /// The ranks of a weight with these singular values, largest first.
    pub fn of(values: &[f64]) -> Self {
        // Divided by the largest, so that no square overflows.
        let largest = values.first().copied().unwrap_or(0.0);
        let square = |value: &f64| if largest > 0.0 { (value / largest).powi(2) } else { 0.0 };
        let stable: f64 = values.iter().map(square).sum();
        let mut held = 0.0;
        let too_few = values.iter().map(square).take_while(|square| {
            let so_far = held;
            held += square;
            so_far < ENERGY * stable
        });
        let effective = too_few.count();
        Self { effective, share: effective as f64 / values.len().max(1) as f64, stable }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: usize, name: &str, similarity: Option<f64>) -> GradientRecord {
        GradientRecord {
            step,
            name: name.into(),
            shape: [64, 80],
            norm: 1.0,
            stable_rank: step as f64,
            full_rank: 64,
            values: Vec::new(),
            rank: 8,
            similarity,
        }
    }

    /// The summary of a matrix with a record every 10 steps. The first record has no similarity.
    fn of(similarities: &[f64]) -> MatrixDynamics {
        let mut records = vec![record(10, "a", None)];
        let later = similarities.iter().enumerate();
        records.extend(later.map(|(i, x)| record(10 * (i + 2), "a", Some(*x))));
        // In any order.
        records.reverse();
        let dynamics = GradientDynamics::of(&records);
        assert_eq!(dynamics.matrices.len(), 1);
        dynamics.matrices[0].clone()
    }

    #[test]
    fn matrix_has_settled_when_its_similarity_stays_near_where_it_ends() {
        // Means of three: .3, .3, .3, .47, .63, .8, .8, .8; the level is .8.
        let matrix = of(&[0.3, 0.3, 0.3, 0.8, 0.8, 0.8, 0.8, 0.8]);
        assert_eq!((matrix.level, matrix.settled), (Some(0.8), Some(70)));
        assert!((matrix.similarity.unwrap() - 4.9 / 8.0).abs() < 1e-12);
        assert_eq!(matrix.stable_rank, 50.0);
        // Settled from the start: a dip of one record is noise, but not one that lasts.
        assert_eq!(of(&[0.5, 0.6, 0.4, 0.6, 0.6, 0.6]).settled, Some(20));
        assert_eq!(of(&[0.6, 0.6, 0.3, 0.3, 0.6, 0.6, 0.6]).settled, Some(70));
    }

    #[test]
    fn what_ends_no_better_than_by_chance_has_not_settled() {
        // Random subspaces of 8 in 64 dimensions have a similarity of 1/8 on average.
        assert_eq!(of(&[0.2; 8]).settled, None);
        assert_eq!(of(&[0.3; 8]).settled, Some(20));
        let nothing = of(&[]);
        assert_eq!((nothing.similarity, nothing.level, nothing.settled), (None, None, None));
        assert!(GradientDynamics::of(&[]).matrices.is_empty());
    }

    #[test]
    fn effective_rank_holds_nine_tenths_of_the_energy() {
        // 9 + 9 of 19 are more than 90%.
        let rank = WeightRank::of(&[3.0, 3.0, 1.0, 0.0]);
        assert_eq!((rank.effective, rank.share), (2, 0.5));
        assert!((rank.stable - 19.0 / 9.0).abs() < 1e-12);
        assert_eq!(WeightRank::of(&[1e200; 10]).effective, 9);
        assert_eq!(WeightRank::of(&[1.0, 0.0, 0.0]).effective, 1);
        let zero = WeightRank::of(&[0.0; 5]);
        assert_eq!((zero.effective, zero.share, zero.stable), (0, 0.0, 0.0));
    }

    #[test]
    fn summary_is_in_the_model_s_order_and_comes_back_from_its_text() {
        let records = ["l.10.q", "l.2.q", "l.2.k"].map(|name| record(5, name, Some(0.5))).to_vec();
        let mut dynamics = GradientDynamics::of(&records);
        let names: Vec<&str> = dynamics.matrices.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["l.2.k", "l.2.q", "l.10.q"]);
        const VALUES: &[f64] = &[2.0, 0.1];
        dynamics.set_weights(|name| (*name == "l.2.q").then_some(VALUES));
        assert_eq!(dynamics.matrices[1].weight.unwrap().effective, 1);
        assert_eq!(dynamics.matrices[0].weight, None);
        assert_eq!(GradientDynamics::from_json(&dynamics.to_json()).unwrap(), dynamics);
        for (text, said) in [
            ("[1]", "not a summary"),
            ("{}", "format is ``"),
            ("{\"format\":\"welore-gradients\",\"version\":2}", "version 2"),
            ("{\"format\":\"welore-gradients\",\"version\":1}", "matrices"),
        ] {
            let error = GradientDynamics::from_json(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
