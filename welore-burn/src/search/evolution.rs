//! One parent, one child, and a step that adapts to how often the child is better.

use rand::Rng;
use rand_chacha::ChaCha12Rng;

use super::run::{Evaluation, best_of};

/// The standard deviation of the first step, in logarithms of multipliers.
const FIRST: f64 = 0.4;

/// What the step grows by when the child is better. It shrinks by the fourth root otherwise, so that
/// it stays where a fifth of the children are better (Rechenberg's rule).
const GROWTH: f64 = 1.5;

/// The smallest step and the largest.
const STEPS: (f64, f64) = (0.02, 1.5);

/// A child of the best point so far. There is at least one.
pub(super) fn next(history: &[Evaluation], random: &mut ChaCha12Rng) -> Vec<f64> {
    let mut step = FIRST;
    for number in 1..history.len() {
        let is_better = best_of(&history[..=number]) == number;
        step *= if is_better { GROWTH } else { GROWTH.powf(-0.25) };
        step = step.clamp(STEPS.0, STEPS.1);
    }
    let parent = &history[best_of(history)].point;
    parent.iter().map(|x| x + step * normal(random)).collect()
}

/// A number with the standard normal distribution (Box and Muller).
pub(super) fn normal(random: &mut ChaCha12Rng) -> f64 {
    // In (0, 1], so that the logarithm is finite.
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_bowl_is_descended() {
        let target = [0.7, -0.3, 0.1];
        let kl =
            |point: &[f64]| point.iter().zip(target).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
        let start = vec![0.0; 3];
        let mut history = vec![Evaluation { kl: Some(kl(&start)), point: start }];
        for number in 1..60 {
            let mut random = ChaCha12Rng::seed_from_u64(1);
            random.set_stream(number);
            let point = next(&history, &mut random);
            history.push(Evaluation { kl: Some(kl(&point)), point });
        }
        let found = history[best_of(&history)].kl.unwrap();
        assert!(found < 0.1 * history[0].kl.unwrap(), "{found}");
    }

    #[test]
    fn a_broken_child_is_never_the_parent() {
        let of = |kl| Evaluation { point: vec![0.0], kl };
        assert_eq!(best_of(&[of(Some(2.0)), of(None), of(Some(1.0)), of(Some(1.0))]), 2);
        assert_eq!(best_of(&[of(Some(2.0)), of(None)]), 0);
    }
}
