//! Second moments of pairs of rows.

use faer::Mat;

use super::moments::view;

/// `Σ x yᵀ` over pairs of rows, summed in f64.
#[derive(Debug, Clone)]
pub struct CrossMoment {
    sum: Mat<f64>,
    count: u64,
}

impl CrossMoment {
    /// The sum over no pairs, for rows of `size` entries.
    pub fn new(size: usize) -> Self {
        Self { sum: Mat::zeros(size, size), count: 0 }
    }

    /// Adds pairs of rows, as [`SecondMoment::add`](super::SecondMoment::add) adds rows.
    ///
    /// # Panics
    ///
    /// Panics if the lengths differ or are not multiples of the size.
    pub fn add(&mut self, x: &[f32], y: &[f32]) {
        let size = self.sum.nrows();
        let (x, y) = (view(x, size), view(y, size));
        let part = x.transpose() * y;
        for col in 0..size {
            let into = self.sum.col_mut(col).iter_mut();
            into.zip(part.col(col).iter()).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        self.count += x.nrows() as u64;
    }

    /// Adds another sum.
    ///
    /// # Panics
    ///
    /// Panics if the sizes differ.
    pub fn merge(&mut self, other: &Self) {
        self.sum += &other.sum;
        self.count += other.count;
    }

    /// Whether every entry is a number.
    pub fn is_finite(&self) -> bool {
        (0..self.sum.ncols()).all(|col| self.sum.col(col).iter().all(|x| x.is_finite()))
    }

    pub(super) fn mean(&self) -> Mat<f64> {
        let scale = 1.0 / self.count.max(1) as f64;
        Mat::from_fn(self.sum.nrows(), self.sum.ncols(), |i, j| self.sum[(i, j)] * scale)
    }
}
