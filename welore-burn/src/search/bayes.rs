//! Bayesian optimisation: a Gaussian process through what was measured, and the point at which the
//! most improvement is expected.

use rand::Rng;
use rand_chacha::ChaCha12Rng;

use super::evolution::normal;
use super::run::{Evaluation, best_of};
use crate::linalg::{Cholesky, LinalgError, Matrix};

/// How far multipliers go in either direction, as logarithms: from a third to three.
const REACH: f64 = 1.1;

/// Candidates anywhere, and as many beside the best point.
const CANDIDATES: usize = 512;

/// How far from the best point these are.
const NEAR: f64 = 0.2;

/// Lengths over which the process may change; the one that explains the measurements best is used.
const LENGTHS: [f64; 4] = [0.3, 0.7, 1.5, 3.0];

/// Variance that is put down to the steps of ranks, as a share of all.
const NOISE: f64 = 1e-3;

/// A smaller divergence counts as this one: its logarithm must be finite.
const LEAST: f64 = 1e-12;

/// The point to measure next. `history` has at least one.
pub(super) fn next(
    history: &[Evaluation],
    centered: impl Fn(Vec<f64>) -> Vec<f64>,
    random: &mut ChaCha12Rng,
) -> Result<Vec<f64>, LinalgError> {
    let size = history[0].point.len();
    let anywhere = |random: &mut ChaCha12Rng| {
        let place = (0..size).map(|_| REACH * (2.0 * random.random::<f64>() - 1.0));
        centered(place.collect())
    };
    // A process through fewer points knows nothing.
    if history.len() <= size {
        return Ok(anywhere(random));
    }
    let mut candidates: Vec<Vec<f64>> = (0..CANDIDATES).map(|_| anywhere(random)).collect();
    let best = &history[best_of(history)].point;
    for _ in 0..CANDIDATES {
        let beside = best.iter().map(|x| (x + NEAR * normal(random)).clamp(-REACH, REACH));
        candidates.push(centered(beside.collect()));
    }
    let points = history.iter().map(|evaluation| evaluation.point.clone()).collect();
    let process = Process::fit(points, &standardized(history))?;
    let improvements = process.improvements(&candidates)?;
    let mut most = 0;
    for (number, improvement) in improvements.iter().enumerate() {
        if *improvement > improvements[most] {
            most = number;
        }
    }
    Ok(candidates.swap_remove(most))
}

/// Logarithms of the divergences, with mean 0 and variance 1. What broke the model counts as the
/// worst.
fn standardized(history: &[Evaluation]) -> Vec<f64> {
    let worst = history.iter().filter_map(|evaluation| evaluation.kl).fold(LEAST, f64::max);
    let log = |evaluation: &Evaluation| evaluation.kl.unwrap_or(worst).max(LEAST).ln();
    let logs: Vec<f64> = history.iter().map(log).collect();
    let count = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / count;
    let variance = logs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let scale = if variance > 0.0 { variance.sqrt() } else { 1.0 };
    logs.iter().map(|x| (x - mean) / scale).collect()
}

/// A Gaussian process with mean 0 and variance 1, given some of its values.
struct Process {
    points: Vec<Vec<f64>>,
    length: f64,
    /// Of the covariance of the points.
    cholesky: Cholesky,
    /// The values, divided by its root.
    solved: Vec<f64>,
    least: f64,
}

impl Process {
    fn fit(points: Vec<Vec<f64>>, values: &[f64]) -> Result<Self, LinalgError> {
        let mut best = Self::with_length(points, values, LENGTHS[0])?;
        for length in &LENGTHS[1..] {
            let other = Self::with_length(best.points.clone(), values, *length)?;
            if other.evidence() > best.evidence() {
                best = other;
            }
        }
        Ok(best)
    }

    fn with_length(
        points: Vec<Vec<f64>>,
        values: &[f64],
        length: f64,
    ) -> Result<Self, LinalgError> {
        let count = points.len();
        let entry = |i: usize, j: usize| {
            covariance(&points[i], &points[j], length) + if i == j { NOISE } else { 0.0 }
        };
        let entries = (0..count * count).map(|place| entry(place / count, place % count));
        let cholesky = Cholesky::of(&Matrix::new(count, count, entries.collect())?)?;
        let solved = cholesky.divide(&Matrix::new(count, 1, values.to_vec())?)?.into_data();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        Ok(Self { points, length, cholesky, solved, least })
    }

    /// The logarithm of how likely the values are, but for a constant.
    fn evidence(&self) -> f64 {
        let distance: f64 = self.solved.iter().map(|x| x * x).sum();
        -0.5 * (distance + self.cholesky.log_determinant())
    }

    /// How far each candidate is expected to be below the lowest value.
    fn improvements(&self, candidates: &[Vec<f64>]) -> Result<Vec<f64>, LinalgError> {
        let (count, width) = (self.points.len(), candidates.len());
        let entry = |place: usize| {
            covariance(&self.points[place / width], &candidates[place % width], self.length)
        };
        let cross = Matrix::new(count, width, (0..count * width).map(entry).collect())?;
        let divided = self.cholesky.divide(&cross)?;
        let rows = || divided.data().chunks_exact(width);
        let improvement = |number: usize| {
            let column = || rows().map(move |row| row[number]);
            let mean: f64 = column().zip(&self.solved).map(|(x, value)| x * value).sum();
            let known: f64 = column().map(|x| x * x).sum();
            expected_improvement(self.least - mean, (1.0 - known).max(1e-12).sqrt())
        };
        Ok((0..width).map(improvement).collect())
    }
}

/// Matérn's covariance with smoothness 5/2.
fn covariance(a: &[f64], b: &[f64], length: f64) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
    let distance = (5.0 * squares).sqrt() / length;
    (1.0 + distance + distance * distance / 3.0) * (-distance).exp()
}

/// The expected positive part of a normal variable.
fn expected_improvement(mean: f64, deviation: f64) -> f64 {
    let z = mean / deviation;
    let density = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    mean * normal_share(z) + deviation * density
}

/// The probability that a standard normal variable is below `z`, within 1e-7 (Abramowitz and Stegun
/// 26.2.17).
fn normal_share(z: f64) -> f64 {
    const TERMS: [f64; 5] = [0.319381530, -0.356563782, 1.781477937, -1.821255978, 1.330274429];
    let t = 1.0 / (1.0 + 0.2316419 * z.abs());
    let sum = TERMS.iter().rev().fold(0.0f64, |sum, term| (sum + term) * t);
    let above = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt() * sum;
    if z < 0.0 { above } else { 1.0 - above }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn shares_of_the_normal_distribution_are_those_of_tables() {
        for (z, share) in [(0.0, 0.5), (1.0, 0.841344746), (-1.96, 0.024997895), (3.0, 0.998650102)]
        {
            assert!((normal_share(z) - share).abs() < 2e-7, "{z}");
        }
        assert!((expected_improvement(0.0, 1.0) - 0.398942280).abs() < 1e-7);
        assert!((expected_improvement(5.0, 1e-6) - 5.0).abs() < 1e-5);
    }

    #[test]
    fn a_process_goes_through_what_was_measured_and_improves_elsewhere() {
        let points = vec![vec![-1.0], vec![0.0], vec![1.0]];
        let process = Process::fit(points.clone(), &[1.0, -1.2, 0.2]).unwrap();
        let candidates = [points, vec![vec![0.3]]].concat();
        let found = process.improvements(&candidates).unwrap();
        assert!(found[..3].iter().all(|known| *known < found[3]), "{found:?}");
    }

    #[test]
    fn a_bowl_is_searched_with_fewer_points_than_chance_takes() {
        let target = [0.6, -0.4, -0.2];
        let kl = |point: &[f64]| {
            let squares: f64 = point.iter().zip(target).map(|(x, y)| (x - y).powi(2)).sum();
            0.1 + squares
        };
        let start = vec![0.0; 3];
        let mut history = vec![Evaluation { kl: Some(kl(&start)), point: start }];
        for number in 1..20 {
            let mut random = ChaCha12Rng::seed_from_u64(5);
            random.set_stream(number);
            let point = next(&history, |point| point, &mut random).unwrap();
            assert!(point.iter().all(|x| x.abs() <= REACH));
            history.push(Evaluation { kl: Some(kl(&point)), point });
        }
        let found = history[best_of(&history)].kl.unwrap();
        assert!(found < 0.3, "{found} of {:?}", history[0].kl);
    }
}
