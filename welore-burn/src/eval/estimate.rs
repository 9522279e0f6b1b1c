//! Numbers that are estimated from a text, with how far off they may be.

use serde::Serialize;

/// A mean over tokens, or what follows from one, and its standard error.
///
/// The standard error takes tokens for independent, as llama.cpp's does. Those of one text are not
/// quite, so the mean on another text of the same kind may differ by more. For a single token it is
/// NaN.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Its standard error.
    pub standard_error: f64,
}

impl Estimate {
    /// The mean of some values.
    pub(super) fn mean(values: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let count = values.len() as f64;
        let value = values.clone().sum::<f64>() / count;
        let squares: f64 = values.map(|x| (x - value) * (x - value)).sum();
        Self { value, standard_error: (squares / (count - 1.0) / count).sqrt() }
    }

    /// The exponential of an estimate.
    pub(super) fn exp(self) -> Self {
        let value = self.value.exp();
        Self { value, standard_error: value * self.standard_error }
    }

    /// The root of an estimate that is not negative.
    pub(super) fn sqrt(self) -> Self {
        let value = self.value.sqrt();
        let standard_error = if value == 0.0 { 0.0 } else { self.standard_error / (2.0 * value) };
        Self { value, standard_error }
    }
}

/// How values are distributed over tokens. Between two values a percentile is interpolated, so the
/// median of an even number of values is the mean of the middle two.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The smallest value.
    pub minimum: f64,
    /// The percentile that 1% of the values are below.
    pub p1: f64,
    /// The middle.
    pub median: f64,
    /// The percentile that 99% of the values are below.
    pub p99: f64,
    /// The percentile that 99.9% of the values are below.
    pub p99_9: f64,
    /// The largest value.
    pub maximum: f64,
}

impl Spread {
    /// Of at least one value.
    pub(super) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len() - 1;
        let at = |share: f64| {
            let place = share * last as f64;
            let (below, part) = (place as usize, place.fract());
            (1.0 - part) * sorted[below] + part * sorted[(below + 1).min(last)]
        };
        Self {
            minimum: sorted[0],
            p1: at(0.01),
            median: at(0.5),
            p99: at(0.99),
            p99_9: at(0.999),
            maximum: sorted[last],
        }
    }
}

/// The correlation of pairs of values; NaN if one side is constant.
pub(super) fn correlation(pairs: impl ExactSizeIterator<Item = (f64, f64)> + Clone) -> f64 {
    let count = pairs.len() as f64;
    let mean = |side: fn((f64, f64)) -> f64| pairs.clone().map(side).sum::<f64>() / count;
    let (left, right) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let (mut product, mut lefts, mut rights) = (0.0f64, 0.0f64, 0.0f64);
    for (a, b) in pairs.map(|(a, b)| (a - left, b - right)) {
        product += a * b;
        lefts += a * a;
        rights += b * b;
    }
    product / (lefts * rights).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_have_the_standard_error_of_their_sample() {
        let values = [1.0, 2.0, 3.0, 6.0];
        let mean = Estimate::mean(values.into_iter());
        // The squares of the distances from 3 add up to 14; 14 / 3 / 4.
        assert_eq!(mean, Estimate { value: 3.0, standard_error: (14.0f64 / 12.0).sqrt() });
        let one = Estimate::mean([5.0].into_iter());
        assert!(one.value == 5.0 && one.standard_error.is_nan());
        // Of shares it is that of the binomial distribution.
        let share = Estimate::mean([1.0, 1.0, 1.0, 0.0, 0.0].into_iter());
        assert!((share.standard_error - (0.6f64 * 0.4 / 4.0).sqrt()).abs() < 1e-15);
        let root = Estimate { value: 4.0, standard_error: 0.2 }.sqrt();
        assert_eq!(root, Estimate { value: 2.0, standard_error: 0.05 });
        assert_eq!(Estimate::mean([0.0; 3].into_iter()).sqrt().standard_error, 0.0);
        let exp = Estimate { value: 0.0, standard_error: 0.5 }.exp();
        assert_eq!(exp, Estimate { value: 1.0, standard_error: 0.5 });
    }

    #[test]
    fn percentiles_are_interpolated_between_sorted_values() {
        // 1000 down to 0: the values are their own places.
        let spread = Spread::of((0..=1000).rev().map(f64::from));
        let expected = Spread {
            minimum: 0.0,
            p1: 10.0,
            median: 500.0,
            p99: 990.0,
            p99_9: 999.0,
            maximum: 1000.0,
        };
        for (got, want) in [
            (spread.minimum, expected.minimum),
            (spread.p1, expected.p1),
            (spread.median, expected.median),
            (spread.p99, expected.p99),
            (spread.p99_9, expected.p99_9),
            (spread.maximum, expected.maximum),
        ] {
            assert!((got - want).abs() < 1e-9, "{spread:?}");
        }
        assert_eq!(Spread::of([4.0, 1.0].into_iter()).median, 2.5);
        let one = Spread::of([7.0].into_iter());
        assert_eq!((one.minimum, one.median, one.p99_9, one.maximum), (7.0, 7.0, 7.0, 7.0));
    }

    #[test]
    fn correlation_is_one_of_what_moves_together() {
        let up = [(1.0, 10.0), (2.0, 20.0), (4.0, 40.0)];
        assert!((correlation(up.into_iter()) - 1.0).abs() < 1e-12);
        assert!((correlation(up.map(|(a, b)| (a, -b)).into_iter()) + 1.0).abs() < 1e-12);
        let none = [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0)];
        assert_eq!(correlation(none.into_iter()), 0.0);
        assert!(correlation([(1.0, 2.0), (1.0, 3.0)].into_iter()).is_nan());
    }
}
