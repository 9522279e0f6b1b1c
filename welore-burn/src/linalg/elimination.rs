//! Channels that are left out one by one: what each of those that are left costs.

use faer::linalg::matmul::matmul;
use faer::linalg::triangular_solve::solve_lower_triangular_in_place;
use faer::{Accum, Mat, get_global_parallelism};

use super::matrix::{LinalgError, Matrix};
use super::moments::{SecondMoment, root};

/// Channels that are left out before the matrices are brought up to date, in one product.
pub(super) const BLOCK: usize = 64;

/// `B` and `N` of the channels that are kept so far, as `ChannelOrder` names them.
pub(super) struct Elimination {
    /// The channels that the matrices have, in rising order.
    pub channels: Vec<usize>,
    /// Which of them have been left out since.
    is_gone: Vec<bool>,
    /// `B` and `N`, without the pending updates.
    precision: Mat<f64>,
    energy: Mat<f64>,
    /// Their diagonals, with all updates.
    precisions: Vec<f64>,
    energies: Vec<f64>,
    pending: Vec<Update>,
}

/// What leaving out one channel does to `B` and `N`.
struct Update {
    /// `b / √B_jj`.
    root: Vec<f64>,
    /// `c`.
    share: Vec<f64>,
    /// `p`.
    cross: Vec<f64>,
}

impl Elimination {
    pub fn new(
        weight: &Matrix,
        inputs: &SecondMoment,
        outputs: &SecondMoment,
        damping: [f64; 2],
    ) -> Result<Self, LinalgError> {
        let channels = weight.cols();
        let lower = root(&inputs.shrunk_by(damping[0].into())?)?;
        let mut inverse = Mat::<f64>::identity(channels, channels);
        solve_lower_triangular_in_place(lower.as_ref(), inverse.as_mut(), get_global_parallelism());
        drop(lower);
        let precision = inverse.transpose() * &inverse;
        drop(inverse);
        let after = outputs.shrunk_by(damping[1].into())?.as_ref() * weight.view();
        let energy = weight.view().transpose() * &after;
        let mut rest = Self {
            channels: (0..channels).collect(),
            is_gone: vec![false; channels],
            precision,
            energy,
            precisions: Vec::new(),
            energies: Vec::new(),
            pending: Vec::new(),
        };
        rest.read_diagonals();
        Ok(rest)
    }

    fn read_diagonals(&mut self) {
        let places = 0..self.channels.len();
        self.precisions = places.clone().map(|i| self.precision[(i, i)]).collect();
        self.energies = places.map(|i| self.energy[(i, i)]).collect();
    }

    /// What leaving out the channel at a place costs. Rounding must not make it negative.
    pub fn cost(&self, at: usize) -> f64 {
        self.energies[at].max(0.0) / (2.0 * self.precisions[at].max(f64::MIN_POSITIVE))
    }

    /// The place of the channel that costs least, the first of equal ones.
    pub fn cheapest(&self) -> Option<usize> {
        let places = (0..self.channels.len()).filter(|at| !self.is_gone[*at]);
        let costs = places.map(|at| (self.cost(at), at));
        costs.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, at)| at)
    }

    pub fn leave_out(&mut self, at: usize) {
        let mut column: Vec<f64> = self.precision.col(at).iter().copied().collect();
        let mut cross: Vec<f64> = self.energy.col(at).iter().copied().collect();
        for earlier in &self.pending {
            subtract(earlier.root[at], &earlier.root, &mut column);
            subtract(earlier.cross[at], &earlier.share, &mut cross);
            subtract(earlier.share[at], &earlier.cross, &mut cross);
        }
        let (own, energy) = (column[at].max(f64::MIN_POSITIVE), cross[at]);
        let share: Vec<f64> = column.iter().map(|x| x / own).collect();
        let root: Vec<f64> = column.iter().map(|x| x / own.sqrt()).collect();
        subtract(energy / 2.0, &share, &mut cross);
        for i in 0..self.channels.len() {
            self.precisions[i] -= root[i] * root[i];
            self.energies[i] -= 2.0 * share[i] * cross[i];
        }
        self.is_gone[at] = true;
        self.pending.push(Update { root, share, cross });
        if self.pending.len() == BLOCK {
            self.carry_out();
        }
    }

    /// Carries the pending updates out, on the channels that are left.
    fn carry_out(&mut self) {
        let left: Vec<usize> = (0..self.channels.len()).filter(|at| !self.is_gone[*at]).collect();
        let (size, par) = (left.len(), get_global_parallelism());
        let pending = std::mem::take(&mut self.pending);
        let count = pending.len();
        let of_left =
            |matrix: &Mat<f64>| Mat::from_fn(size, size, |i, j| matrix[(left[i], left[j])]);
        let roots = Mat::from_fn(size, count, |i, j| pending[j].root[left[i]]);
        let mut precision = of_left(&self.precision);
        matmul(precision.as_mut(), Accum::Add, roots.as_ref(), roots.transpose(), -1.0, par);
        self.precision = precision;
        // C Pᵀ + P Cᵀ as one product.
        let side = |shares_first: bool| {
            Mat::from_fn(size, 2 * count, |i, j| {
                let update = &pending[j % count];
                let of_share = (j < count) == shares_first;
                if of_share { update.share[left[i]] } else { update.cross[left[i]] }
            })
        };
        let (first, second) = (side(true), side(false));
        let mut energy = of_left(&self.energy);
        matmul(energy.as_mut(), Accum::Add, first.as_ref(), second.transpose(), -1.0, par);
        self.energy = energy;
        self.channels = left.iter().map(|at| self.channels[*at]).collect();
        self.is_gone = vec![false; size];
        self.read_diagonals();
    }
}

/// `y -= factor x`
fn subtract(factor: f64, x: &[f64], y: &mut [f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y -= factor * x);
}
