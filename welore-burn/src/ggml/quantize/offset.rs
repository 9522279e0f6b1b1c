//! The best scale and minimum for entries that share them.

use super::format::{Grid, Levels, PART_LEN};

/// The scale and the minimum of the least weighted squared error that was found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fit {
    pub scale: f32,
    /// What is added to all entries.
    pub minimum: f32,
    /// What the error grows by with the square of a small change of the scale, if the minimum
    /// follows.
    pub curvature: f64,
    /// The sum of the weights: the same for the minimum.
    pub weight: f64,
    /// Weighted means of the entries, and of the levels.
    pub means: [f64; 2],
}

impl Fit {
    /// The best minimum for another scale.
    pub fn minimum_at(&self, scale: f32) -> f32 {
        (self.means[0] - f64::from(scale) * self.means[1]) as f32
    }
}

/// Weighted sums over entries and their levels.
#[derive(Default)]
struct Sums {
    w: f64,
    wl: f64,
    wll: f64,
    wx: f64,
    wlx: f64,
}

impl Sums {
    fn of(levels: Levels, grid: Grid, entries: &[f32], weights: &[f32]) -> Self {
        let mut chosen = [0.0f32; PART_LEN];
        for (level, x) in chosen.iter_mut().zip(entries) {
            *level = levels.nearest(grid.ratio(*x));
        }
        let mut sums = Self::default();
        for ((x, w), level) in entries.iter().zip(weights).zip(chosen) {
            let (x, w, level) = (f64::from(*x), f64::from(*w), f64::from(level));
            sums.w += w;
            sums.wl += w * level;
            sums.wll += w * level * level;
            sums.wx += w * x;
            sums.wlx += w * level * x;
        }
        sums
    }

    /// Scale and minimum by least squares. `None` if all levels are zero.
    fn fit(&self, below: bool) -> Option<Fit> {
        let curvature = self.wll - self.wl * self.wl / self.w;
        let means = [self.wx / self.w, self.wl / self.w];
        let both = || {
            let scale = (self.wlx - self.wl * means[0]) / curvature;
            (scale, means[0] - scale * means[1])
        };
        // If all levels are the same, only one of the two is determined.
        let free = (curvature > 1e-9 * self.wll).then(both);
        let allowed = free.filter(|(_, minimum)| !below || *minimum <= 0.0);
        let (scale, minimum) = allowed.unwrap_or((self.wlx / self.wll, 0.0));
        let fit = Fit {
            scale: scale as f32,
            minimum: minimum as f32,
            curvature: curvature.max(0.0),
            weight: self.w,
            means,
        };
        (self.wll > 0.0).then_some(fit)
    }
}

/// Scale and minimum by turns: levels by rounding, then both by least squares. It begins with
/// several shares of the range cut off, and goes on with the best.
///
/// `below` asks for a minimum that is not above zero.
pub(super) fn best_offset(levels: Levels, entries: &[f32], weights: &[f32], below: bool) -> Fit {
    let lowest = entries.iter().copied().fold(f32::INFINITY, f32::min);
    let highest = entries.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let lowest = if below { lowest.min(0.0) } else { lowest };
    let range = highest.max(lowest) - lowest;
    let weight = weights.iter().map(|w| f64::from(*w)).sum();
    let flat = Fit { minimum: lowest, weight, means: [f64::from(lowest), 0.0], ..Fit::default() };
    if range <= f32::MIN_POSITIVE {
        return flat;
    }
    // Shares of the range that are cut off below, and steps that the range above has.
    let most = levels.largest();
    let (low, high): (&[f32], &[f32]) = match most {
        most if most < 4.0 => (&[0.0, 0.05, 0.1, 0.16, 0.24], &[-1.0, 0.0, 0.3, 0.6, 1.0]),
        most if most < 16.0 => (&[0.0, 0.03, 0.06, 0.1], &[-2.0, -1.0, 0.0, 0.5, 1.0, 1.5]),
        _ => (&[0.0, 0.02, 0.04], &[-2.0, -1.0, 0.0, 0.6, 1.2]),
    };
    let (mut least, mut best) = (f64::INFINITY, flat);
    for low in low {
        for more in high {
            let scale = range * (1.0 - low) / (most + more);
            let mut grid = Grid::new(scale, lowest + low * range);
            if below && grid.minimum > 0.0 {
                continue;
            }
            for _ in 0..2 {
                let Some(fit) = Sums::of(levels, grid, entries, weights).fit(below) else { break };
                grid = Grid::new(fit.scale, fit.minimum);
                let error = grid.error(levels, entries, weights);
                if error >= least {
                    break;
                }
                (least, best) = (error, fit);
            }
        }
    }
    polish(levels, entries, weights, below, (least, best))
}

/// Goes on by turns while it helps.
fn polish(
    levels: Levels,
    entries: &[f32],
    weights: &[f32],
    below: bool,
    (mut least, mut best): (f64, Fit),
) -> Fit {
    for _ in 0..16 {
        let grid = Grid::new(best.scale, best.minimum);
        let Some(fit) = Sums::of(levels, grid, entries, weights).fit(below) else { break };
        let error = Grid::new(fit.scale, fit.minimum).error(levels, entries, weights);
        if error >= least {
            break;
        }
        (least, best) = (error, fit);
    }
    best
}
