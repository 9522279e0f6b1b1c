use super::error::DifferenceError;
use super::measure::MatrixDifference;
use crate::plan::{Point, least_loss};

/// How the ranks of approximations are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RankGoal {
    /// The same rank for each matrix, or its full rank if that is lower.
    Rank(usize),
    /// For each matrix the smallest rank whose error, relative to its whole difference and in the norm
    /// that was used, is at most this.
    Err(f64),
    /// The smallest sum of squared errors in the norm with at most this many parameters in all
    /// factors. A matrix may get none.
    Parameters(u64),
}

impl RankGoal {
    /// The rank of each matrix; 0 for one that gets no factors.
    ///
    /// # Errors
    ///
    /// [`DifferenceError::NoRank`], [`DifferenceError::Err`], [`DifferenceError::OutOfReach`].
    pub fn ranks(self, matrices: &[MatrixDifference]) -> Result<Vec<usize>, DifferenceError> {
        self.check()?;
        match self {
            Self::Rank(rank) => Ok(matrices.iter().map(|of| rank.min(of.full_rank())).collect()),
            Self::Err(most) => Ok(matrices.iter().map(|of| rank_within(of, most)).collect()),
            Self::Parameters(most) => within(matrices, most),
        }
    }

    /// Checks it, before anything is measured.
    ///
    /// # Errors
    ///
    /// [`DifferenceError::NoRank`], [`DifferenceError::Err`].
    pub fn check(self) -> Result<(), DifferenceError> {
        match self {
            Self::Rank(0) => Err(DifferenceError::NoRank),
            Self::Err(most) if !(0.0..1.0).contains(&most) => Err(DifferenceError::Err(most)),
            _ => Ok(()),
        }
    }
}

/// The smallest rank with at most this relative error, at least 1.
fn rank_within(matrix: &MatrixDifference, most: f64) -> usize {
    let tails = matrix.tails();
    let most = most * most * tails[0];
    let rank = tails.iter().position(|tail| *tail <= most);
    rank.unwrap_or(matrix.full_rank()).max(1)
}

/// The ranks with the smallest sum of squared errors within so many parameters.
fn within(matrices: &[MatrixDifference], most: u64) -> Result<Vec<usize>, DifferenceError> {
    let curve = |matrix: &MatrixDifference| -> Vec<Point> {
        let of_rank = matrix.parameters_of_rank();
        let point = |(rank, loss)| Point { cost: rank as u64 * of_rank, loss };
        matrix.tails().into_iter().enumerate().map(point).collect()
    };
    let curves: Vec<Vec<Point>> = matrices.iter().map(curve).collect();
    let order = |a: usize, b: usize| matrices[a].name.cmp(&matrices[b].name);
    let ranks = least_loss(&curves, most, order).unwrap_or_default();
    match ranks.iter().any(|rank| *rank > 0) {
        true => Ok(ranks),
        false => {
            let least = matrices.iter().map(MatrixDifference::parameters_of_rank).min();
            Err(DifferenceError::OutOfReach { most, least: least.unwrap_or(0) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(name: &str, shape: [usize; 2], values: &[f64]) -> MatrixDifference {
        MatrixDifference {
            name: name.into(),
            shape,
            singular_values: values.to_vec(),
            change: 1.0,
            bytes: 0,
        }
    }

    fn two() -> [MatrixDifference; 2] {
        [matrix("a", [3, 5], &[4.0, 2.0, 1.0]), matrix("b", [2, 4], &[3.0, 0.5])]
    }

    #[test]
    fn one_rank_is_limited_by_what_a_matrix_has() {
        assert_eq!(RankGoal::Rank(1).ranks(&two()).unwrap(), [1, 1]);
        assert_eq!(RankGoal::Rank(9).ranks(&two()).unwrap(), [3, 2]);
        assert!(matches!(RankGoal::Rank(0).ranks(&two()), Err(DifferenceError::NoRank)));
    }

    #[test]
    fn an_error_is_met_by_the_smallest_rank() {
        // The relative errors of `a` are √(5/21) = 0.488 and √(1/21) = 0.218, that of `b` is 0.164.
        for (most, ranks) in [(0.5, [1, 1]), (0.3, [2, 1]), (0.17, [3, 1]), (0.0, [3, 2])] {
            assert_eq!(RankGoal::Err(most).ranks(&two()).unwrap(), ranks, "{most}");
        }
        for wrong in [-0.1, 1.0, f64::NAN] {
            let refused = RankGoal::Err(wrong).ranks(&two());
            assert!(matches!(refused, Err(DifferenceError::Err(_))), "{wrong}");
        }
    }

    #[test]
    fn a_budget_goes_where_it_saves_most() {
        // A rank of `a` takes 8 and saves 16, 4 and 1; one of `b` takes 6 and saves 9 and 0.25.
        let ranks = |most| RankGoal::Parameters(most).ranks(&two()).unwrap();
        for (most, expected) in [(6, [0, 1]), (8, [1, 0]), (13, [1, 0]), (14, [1, 1])] {
            assert_eq!(ranks(most), expected, "{most}");
        }
        for (most, expected) in [(22, [2, 1]), (30, [3, 1]), (36, [3, 2]), (999, [3, 2])] {
            assert_eq!(ranks(most), expected, "{most}");
        }
        let refused = RankGoal::Parameters(5).ranks(&two()).unwrap_err();
        assert!(matches!(refused, DifferenceError::OutOfReach { most: 5, least: 6 }), "{refused}");
    }
}
