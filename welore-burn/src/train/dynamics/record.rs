use serde::{Deserialize, Serialize};

use crate::linalg::{LeadingSubspace, LinalgError, Matrix, leading_subspace, subspace_similarity};
use crate::modules::MatrixName;

/// The file of a run directory that holds its [`GradientRecord`]s, one per line.
pub const GRADIENTS_FILE: &str = "gradients.jsonl";

/// The most singular values in a record; more could not be seen in a plot.
const VALUES: usize = 64;

/// The number of leading directions that are compared: the full rank over `DIRECTIONS_SHARE`, at
/// most `DIRECTIONS`.
const DIRECTIONS: usize = 8;
const DIRECTIONS_SHARE: usize = 8;

/// A singular value below this share of the largest has no direction that counts: in an f32
/// gradient it is rounding.
const NO_DIRECTION: f64 = 1e-6;

/// Figures of the gradient of one matrix at one step, before clipping.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GradientRecord {
    /// Number of the step, from 1.
    pub step: usize,
    /// The matrix, as model directories name it, without `.weight`. A factored matrix `X` has a
    /// record for each factor: `X.V` and `X.U`, or `X.V` and `X.C` in pivoted storage.
    pub name: MatrixName,
    /// `[out, in]`, as PyTorch stores the weight.
    pub shape: [usize; 2],
    /// Frobenius norm.
    pub norm: f64,
    /// Frobenius norm over spectral norm, squared; 0 for a gradient that is 0.
    pub stable_rank: f64,
    /// Number of singular values.
    pub full_rank: usize,
    /// Singular values divided by the largest one, largest first. If there are more than 64, 64
    /// evenly spaced ones from the first to the last: the `k`-th is number
    /// `⌊k (full_rank - 1) / 63⌋`.
    pub values: Vec<f32>,
    /// Dimension of the subspaces that are compared: an eighth of the full rank, at least 1 and at
    /// most 8.
    pub rank: usize,
    /// Similarity, in `[0, 1]`, of the subspace that the leading singular vectors of the smaller
    /// side span to that of the previous record; see [`subspace_similarity`]. `None` if there is
    /// nothing to compare: in the first record, in the first one after a run is resumed, and where
    /// this gradient or the previous one has fewer directions than `rank`.
    pub similarity: Option<f64>,
}

impl GradientRecord {
    /// The record of a gradient `[out, in]`, and a basis of its `rank` leading directions, if it
    /// has that many. `before` is the basis of the previous record.
    pub(super) fn of(
        step: usize,
        name: &MatrixName,
        gradient: &Matrix,
        before: Option<&Matrix>,
    ) -> Result<(Self, Option<Matrix>), LinalgError> {
        let full_rank = gradient.full_rank();
        let rank = (full_rank / DIRECTIONS_SHARE).clamp(1, DIRECTIONS);
        let LeadingSubspace { values, vectors } = leading_subspace(gradient, rank)?;
        let largest = values[0];
        let norm = gradient.norm();
        let share = |value: f64| if largest > 0.0 { value / largest } else { 0.0 };
        let basis = (share(values[rank - 1]) > NO_DIRECTION).then_some(vectors);
        let similarity = match (before, &basis) {
            (Some(before), Some(basis)) => Some(subspace_similarity(before, basis)),
            _ => None,
        };
        let record = Self {
            step,
            name: name.clone(),
            shape: [gradient.rows(), gradient.cols()],
            norm,
            stable_rank: if largest > 0.0 { (norm / largest).powi(2) } else { 0.0 },
            full_rank,
            values: places(full_rank, VALUES)
                .into_iter()
                .map(|place| share(values[place]) as f32)
                .collect(),
            rank,
            similarity,
        };
        Ok((record, basis))
    }

    /// Whether a gradient can have these figures. A summary sums them up, so they must be finite
    /// and stay so.
    fn is_possible(&self) -> bool {
        let full = self.shape[0].min(self.shape[1]);
        let within = |value: f64, most: f64| (0.0..=most).contains(&value);
        self.full_rank == full
            && (1..=full).contains(&self.rank)
            && within(self.norm, f64::MAX)
            // It is at most the full rank, before rounding.
            && within(self.stable_rank, 2.0 * full as f64)
            && self.similarity.is_none_or(|similarity| within(similarity, 1.0))
            && self.values.len() <= VALUES
            && self.values.iter().all(|value| value.is_finite())
    }
}

/// The records in the text of a `gradients.jsonl`. Lines that are not records are skipped, and so
/// are those with figures that no gradient has.
pub fn read_gradients(text: &str) -> Vec<GradientRecord> {
    let parse = |line| serde_json::from_str::<GradientRecord>(line).ok();
    text.lines().filter_map(parse).filter(GradientRecord::is_possible).collect()
}

/// At most `most` indices below `count`, evenly spaced, including the first and the last.
pub(crate) fn places(count: usize, most: usize) -> Vec<usize> {
    if count <= most {
        return (0..count).collect();
    }
    (0..most).map(|n| n * (count - 1) / (most - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A diagonal matrix whose entries begin at column `shift`.
    fn diagonal(values: &[f64], shape: [usize; 2], shift: usize) -> Matrix {
        let mut data = vec![0.0; shape[0] * shape[1]];
        for (i, value) in values.iter().enumerate() {
            data[i * shape[1] + (i + shift) % shape[1]] = *value;
        }
        Matrix::new(shape[0], shape[1], data).unwrap()
    }

    #[test]
    fn spectrum_norm_and_stable_rank_are_those_of_the_gradient() {
        let gradient = diagonal(&[3.0, -4.0, 0.0], [3, 5], 0);
        let (record, basis) = GradientRecord::of(7, &"a".into(), &gradient, None).unwrap();
        assert_eq!((record.step, record.shape, record.full_rank), (7, [3, 5], 3));
        assert_eq!((record.rank, record.similarity), (1, None));
        assert!((record.norm - 5.0).abs() < 1e-12);
        assert!((record.stable_rank - 25.0 / 16.0).abs() < 1e-12);
        for (got, want) in record.values.iter().zip([1.0f32, 0.75, 0.0]) {
            assert!((got - want).abs() < 1e-6, "{:?}", record.values);
        }
        let basis: Vec<f64> = basis.unwrap().data().iter().map(|x| x.abs()).collect();
        for (got, want) in basis.iter().zip([0.0f64, 1.0, 0.0]) {
            assert!((got - want).abs() < 1e-9, "{basis:?}");
        }
    }

    #[test]
    fn similarity_is_that_of_the_leading_directions_of_the_smaller_side() {
        // At 16 x 40, 2 directions of the rows are compared.
        let falling: Vec<f64> = (0..16).map(|i| 0.5f64.powi(i)).collect();
        let of = |gradient: &Matrix, before: Option<&Matrix>| {
            let (record, basis) = GradientRecord::of(1, &"a".into(), gradient, before).unwrap();
            assert_eq!(record.rank, 2);
            (record.similarity, basis.unwrap())
        };
        let (first, basis) = of(&diagonal(&falling, [16, 40], 0), None);
        assert_eq!(first, None);
        // Other columns and sizes, the same leading rows.
        let scaled: Vec<f64> = falling.iter().map(|x| -1e-9 * x).collect();
        let (same, _) = of(&diagonal(&scaled, [16, 40], 5), Some(&basis));
        assert!((same.unwrap() - 1.0).abs() < 1e-9);
        let mut swapped = falling.clone();
        swapped.swap(1, 9);
        let (half, _) = of(&diagonal(&swapped, [16, 40], 0), Some(&basis));
        assert!((half.unwrap() - 0.5).abs() < 1e-9);
        let risen: Vec<f64> = falling.iter().rev().copied().collect();
        let (none, _) = of(&diagonal(&risen, [16, 40], 0), Some(&basis));
        assert!(none.unwrap() < 1e-9);
    }

    #[test]
    fn gradients_without_so_many_directions_are_compared_with_nothing() {
        let other = Matrix::new(16, 2, vec![0.0; 32]).unwrap();
        let zero = diagonal(&[], [20, 16], 0);
        let (record, basis) = GradientRecord::of(1, &"a".into(), &zero, Some(&other)).unwrap();
        assert_eq!((record.norm, record.stable_rank, record.similarity), (0.0, 0.0, None));
        assert_eq!((record.values, basis), (vec![0.0; 16], None));
        let single = diagonal(&[1.0], [20, 16], 0);
        let (record, basis) = GradientRecord::of(1, &"a".into(), &single, Some(&other)).unwrap();
        assert!((record.stable_rank - 1.0).abs() < 1e-9);
        assert_eq!((record.similarity, basis), (None, None));
    }

    #[test]
    fn long_spectra_are_spread_and_lines_are_read_as_written() {
        let falling: Vec<f64> = (0..100).map(|i| 1.0 - f64::from(i) / 200.0).collect();
        let gradient = diagonal(&falling, [100, 100], 0);
        let (record, _) = GradientRecord::of(3, &"a.b".into(), &gradient, None).unwrap();
        assert_eq!((record.values.len(), record.full_rank, record.rank), (64, 100, 8));
        assert!((record.values[63] - 0.505).abs() < 1e-6, "{:?}", record.values);
        let line = serde_json::to_string(&record).unwrap();
        assert_eq!(read_gradients(&format!("{line}\nnonsense\n{{\"step\":1}}\n")), [record]);
    }

    #[test]
    fn figures_that_no_gradient_has_are_skipped() {
        let gradient = diagonal(&[3.0, -4.0, 0.0], [3, 5], 0);
        let (record, _) = GradientRecord::of(7, &"a".into(), &gradient, None).unwrap();
        let good = serde_json::to_value(&record).unwrap();
        assert_eq!(read_gradients(&good.to_string()), [record]);
        for (field, value) in [
            ("norm", "-1"),
            ("stable_rank", "1e308"),
            ("full_rank", "18446744073709551615"),
            ("rank", "0"),
            ("shape", "[0,5]"),
            ("similarity", "1e308"),
        ] {
            let mut bad = good.clone();
            bad[field] = serde_json::from_str(value).unwrap();
            assert!(read_gradients(&bad.to_string()).is_empty(), "{field}");
        }
    }

    #[test]
    fn places_keep_both_ends() {
        assert_eq!(places(5, 10), [0, 1, 2, 3, 4]);
        let places = places(1000, 64);
        assert_eq!((places.len(), places[0], places[63]), (64, 0, 999));
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
