//! How second moments are shrunk, so that what a short text says by chance does not count as known.

use std::fmt;

use faer::Mat;

use super::matrix::LinalgError;
use super::moments::SecondMoment;

/// How a second moment is shrunk.
///
/// Both ways add to the diagonal, in units of the mean of the diagonal. In that mean no entry counts
/// as more than ten medians: in some models a few tokens have a channel that is thousands of times
/// larger than the others, which would drown all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shrink {
    /// This share of the mean is added.
    Share(f64),
    /// The second moment is mixed with a multiple of the identity, with the share of that which is best
    /// for as many rows that differ as much (Ledoit and Wolf, 2004): little where there are many rows,
    /// nearly all where there are few. At least a small share is added.
    Data,
}

impl From<f64> for Shrink {
    fn from(share: f64) -> Self {
        Self::Share(share)
    }
}

impl fmt::Display for Shrink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{share}"),
            Self::Data => f.write_str("data"),
        }
    }
}

/// How the second moments of a norm are shrunk.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shrinkage {
    /// Those of the inputs.
    pub input: Shrink,
    /// Those of the gradients, which have less data.
    pub output: Shrink,
}

impl Shrinkage {
    /// The default share for inputs.
    pub const INPUT: f64 = 1e-3;
    /// The default share for gradients.
    pub const OUTPUT: f64 = 0.3;
}

impl Default for Shrinkage {
    /// The values that do best on SmolLM2 (docs/benchmarks.md).
    fn default() -> Self {
        Self { input: Shrink::Share(Self::INPUT), output: Shrink::Share(Self::OUTPUT) }
    }
}

/// The share that is added at least with [`Shrink::Data`].
const LEAST: f64 = 1e-4;

/// The most medians of the diagonal that an entry counts as in its mean.
const MOST_MEDIANS: f64 = 10.0;

impl SecondMoment {
    /// The share of the identity with which the mean is best mixed, in [0, 1]: the expected squared
    /// error of the mean over its squared distance from a multiple of the identity (Ledoit and Wolf,
    /// 2004). Rows count as independent of each other. `None` if it is not known how much they differ.
    pub fn mixed_share(&self) -> Option<f64> {
        let fourth = self.fourth()?;
        if self.count() < 2 {
            // They differ from nothing.
            return Some(1.0);
        }
        let (size, count) = (self.size(), self.count() as f64);
        let mean_fourth = fourth / count;
        let scale = 1.0 / count;
        let squares: f64 = (0..size).map(|i| (self.entry(i, i) * scale).powi(2)).sum();
        let across: f64 = match self.is_diagonal() {
            true => 0.0,
            false => (0..size)
                .map(|i| (0..i).map(|j| (self.entry(i, j) * scale).powi(2)).sum::<f64>())
                .sum(),
        };
        let norm = squares + 2.0 * across;
        let mean = (0..size).map(|i| self.entry(i, i)).sum::<f64>() * scale / size as f64;
        let distance = norm - size as f64 * mean * mean;
        let noise = (mean_fourth - norm).max(0.0) / count;
        if distance <= 0.0 {
            // It is a multiple of the identity, or zero.
            return Some(1.0);
        }
        Some((noise / distance).min(1.0))
    }

    /// How many rows of one length would have a mean as certain as these: fewer where some are much
    /// longer than others. `None` if it is not known how much they differ.
    pub fn effective_rows(&self) -> Option<f64> {
        let trace: f64 = (0..self.size()).map(|i| self.entry(i, i)).sum();
        let fourth = self.fourth()?;
        Some(if fourth > 0.0 { trace * trace / fourth } else { 0.0 })
    }

    /// The mean `E[x xᵀ]`, shrunk.
    ///
    /// # Errors
    ///
    /// [`LinalgError::UnknownSpread`].
    pub(super) fn shrunk_by(&self, shrink: Shrink) -> Result<Mat<f64>, LinalgError> {
        let (kept, added) = self.shares(shrink)?;
        let scale = kept / self.count().max(1) as f64;
        let size = self.size();
        Ok(Mat::from_fn(size, size, |i, j| {
            let entry = self.entry(i.max(j), i.min(j)) * scale;
            if i == j { entry + added } else { entry }
        }))
    }

    /// The mean `E[x xᵀ]` with a share of its diagonal added to it: half of that is of each entry
    /// itself, so that large entries are held back as well, and half of the typical one, so that small ones
    /// are not free. No entry decides what is added to the others.
    pub(super) fn ridged(&self, share: f64) -> Mat<f64> {
        let (size, unit) = (self.size(), self.typical_square());
        let scale = 1.0 / self.count().max(1) as f64;
        Mat::from_fn(size, size, |i, j| {
            let entry = self.entry(i.max(j), i.min(j)) * scale;
            if i == j { entry + 0.5 * share * (entry + unit) } else { entry }
        })
    }

    /// The share of the mean that is kept, and what is added to its diagonal.
    pub(super) fn shares(&self, shrink: Shrink) -> Result<(f64, f64), LinalgError> {
        let unit = self.typical_square();
        Ok(match shrink {
            Shrink::Share(share) => (1.0, share * unit),
            Shrink::Data => {
                let mixed = self.mixed_share().ok_or(LinalgError::UnknownSpread)?;
                (1.0 - mixed, (mixed + LEAST) * unit)
            }
        })
    }

    /// The mean of the diagonal of the mean, in which no entry counts as more than ten medians of those
    /// that are not zero.
    fn typical_square(&self) -> f64 {
        let squares = self.squares();
        let mut sorted: Vec<f64> = squares.iter().copied().filter(|x| *x > 0.0).collect();
        sorted.sort_by(f64::total_cmp);
        let most = sorted.get(sorted.len() / 2).map_or(0.0, |median| MOST_MEDIANS * median);
        // What is not a number stays, so that whoever checks the result finds it.
        let counted = |x: f64| if x > most { most } else { x };
        squares.iter().map(|x| counted(*x)).sum::<f64>() / squares.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Independent rows of numbers between -1 and 1, of which one entry may be longer.
    fn moment(size: usize, rows: usize, stretch: f32) -> SecondMoment {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut moment = SecondMoment::new(size);
        for _ in 0..rows {
            let row = (0..size).map(|i| next() * if i == 0 { stretch } else { 1.0 });
            moment.add(&row.collect::<Vec<f32>>());
        }
        moment
    }

    #[test]
    fn few_rows_are_mixed_more_than_many_and_structure_less_than_none() {
        let share = |rows, stretch| moment(20, rows, stretch).mixed_share().unwrap();
        let shares = [10, 100, 1000, 10_000].map(|rows| share(rows, 5.0));
        assert!(shares.windows(2).all(|pair| pair[0] > 3.0 * pair[1]), "{shares:?}");
        // Rows without structure have no reason to differ from the identity.
        assert!(share(200, 1.0) > 0.5 && share(200, 5.0) < 0.1);
        assert_eq!(share(1, 5.0), 1.0);
    }

    #[test]
    fn mixing_brings_the_mean_of_few_rows_closer_to_that_of_many() {
        let many = moment(20, 50_000, 3.0).shrunk_by(0.0.into()).unwrap();
        let few = moment(20, 15, 3.0);
        let gap = |shrink: Shrink| (few.shrunk_by(shrink).unwrap() - &many).norm_l2();
        assert!(gap(Shrink::Data) < 0.95 * gap(Shrink::Share(0.0)));
    }

    #[test]
    fn one_channel_does_not_decide_what_is_added_to_the_others() {
        let added = |stretch: f32| moment(40, 500, stretch).shares(Shrink::Share(0.1)).unwrap().1;
        let plain = added(1.0);
        assert!(added(1e4) < 1.3 * plain, "{} {plain}", added(1e4));
        // Where none sticks out it is a share of the mean.
        let moment = moment(40, 500, 1.0);
        let mean = moment.squares().iter().sum::<f64>() / 40.0;
        assert!((plain / (0.1 * mean) - 1.0).abs() < 1e-12);
        // Entries that are always zero do not make the median zero.
        let sparse = SecondMoment::from_squares(&[0.0, 0.0, 0.0, 2.0], 8).unwrap();
        assert_eq!(sparse.shares(Shrink::Share(1.0)).unwrap(), (1.0, 0.5));
    }

    #[test]
    fn a_ridge_is_a_share_of_each_channel_and_of_the_typical_one() {
        let added = |stretch: f32| -> Vec<f64> {
            let moment = moment(40, 500, stretch);
            let ridged = moment.ridged(0.1);
            assert!((ridged[(3, 2)] - ridged[(2, 3)]).abs() == 0.0);
            moment.squares().iter().enumerate().map(|(i, x)| ridged[(i, i)] - x).collect()
        };
        let (plain, one) = (added(1.0), added(1e4));
        // The channel itself gets half of its share, all others what they had.
        let large = moment(40, 500, 1e4).squares()[0];
        assert!((one[0] / (0.05 * large) - 1.0).abs() < 1e-3, "{} {large}", one[0]);
        let mut others = plain.iter().zip(&one).skip(1);
        assert!(others.all(|(plain, one)| (0.99..1.3).contains(&(one / plain))));
    }

    #[test]
    fn a_few_long_rows_are_few() {
        let mut even = SecondMoment::new(2);
        (0..50).for_each(|_| even.add(&[1.0, 0.0, 0.0, 1.0]));
        assert!((even.effective_rows().unwrap() - 100.0).abs() < 1e-9);
        let mut uneven = even.clone();
        uneven.add(&[1e3, 0.0]);
        assert!(uneven.effective_rows().unwrap() < 1.1);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let diagonal = SecondMoment::from_squares(&[1.0, 2.0], 8).unwrap();
        assert_eq!(diagonal.shrunk_by(Shrink::Data).unwrap_err(), LinalgError::UnknownSpread);
        assert!(diagonal.root(Shrink::Data).is_err());
        let known = diagonal.with_mean_fourth(Some(6.0));
        assert!(known.root(Shrink::Data).is_ok());
    }
}
