//! The best scale for entries that share one.

use super::format::{Grid, Levels, PART_LEN};

/// Among errors that are alike the narrowest scale is the best: an outlier by itself fits any level,
/// and other parts want what is left of a block's range.
const ALIKE: f64 = 1.0001;

/// The scale of the least weighted squared error.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fit {
    pub scale: f32,
    /// What the error grows by with the square of a small change of the scale.
    pub curvature: f64,
}

/// The best scales, of either sign; first the better one.
///
/// All scales that round the entries to the same levels have the same best one, `Σ w x l / Σ w l²`.
/// So it is enough to go through the scales at which a level changes, in order, with these sums.
pub(super) fn best_scales(levels: Levels, entries: &[f32], weights: &[f32]) -> [Fit; 2] {
    if levels.largest() > 16.0 && levels != Levels::Uneven {
        // With many levels the sign is worth next to nothing: the largest entry gets the lowest.
        let largest =
            entries.iter().fold(0.0f32, |most, x| if x.abs() > most.abs() { *x } else { most });
        let sign = if largest > 0.0 && !levels.is_symmetric() { -1.0 } else { 1.0 };
        let fit = sweep(levels, entries, weights, sign, f64::INFINITY).1;
        return [fit, fit];
    }
    let up = sweep(levels, entries, weights, 1.0, f64::INFINITY);
    let down = sweep(levels, entries, weights, -1.0, up.0);
    if down.0 < up.0 { [down.1, up.1] } else { [up.1, down.1] }
}

/// The error of the best scale of a sign, and this scale. Scales that are worse than `known`, an
/// error that is reached anyway, may be passed over.
fn sweep(levels: Levels, entries: &[f32], weights: &[f32], sign: f32, known: f64) -> (f64, Fit) {
    let sides = [levels.side(false), levels.side(true)];
    let side = |x: f32| &sides[usize::from(x * sign >= 0.0)];
    let reach = |x: &f32| x.abs() / side(*x).last();
    let widest = entries.iter().map(reach).fold(0.0f32, f32::max);
    if widest == 0.0 {
        return (0.0, Fit::default());
    }
    let from = lowest_share(levels) / widest;
    let to = last_inverse(levels, entries, weights, sign * widest, known);
    // What a level adds to the sums: to the first, and its square to the second.
    let mut shares = [(0.0f64, 0.0f64, &sides[0]); PART_LEN];
    let (mut product, mut square, mut zeros) = (0.0, 0.0, 0.0);
    // Inverse scale, entry, level; as integers, which order like the positive floats in them.
    let mut changes: Vec<u64> = Vec::with_capacity(PART_LEN * 8);
    for (i, (x, w)) in entries.iter().zip(weights).enumerate() {
        let (side, size, w) = (side(*x), x.abs(), f64::from(*w));
        shares[i] = (w * f64::from(*x * sign), w, side);
        zeros += w * f64::from(*x).powi(2);
        let passed = side.steps.partition_point(|step| *step < size * from);
        let level = f64::from(side.levels[passed]);
        product += shares[i].0 * level;
        square += w * level * level;
        let inverse = 1.0 / size;
        let within = side.steps[passed..].iter().map(|step| step * inverse);
        for (k, inverse) in within.take_while(|inverse| *inverse <= to).enumerate() {
            changes.push((u64::from(inverse.to_bits()) << 32) | ((i << 8) | (passed + k)) as u64);
        }
    }
    changes.sort_unstable();
    let mut best = Best { zeros, least: zeros, enough: -1.0, fit: Fit::default() };
    best.consider(product, square);
    for change in changes {
        let (i, k) = (((change >> 8) & 0xff) as usize, (change & 0xff) as usize);
        let (share, w, side) = shares[i];
        let (old, new) = (f64::from(side.levels[k]), f64::from(side.levels[k + 1]));
        product += share * (new - old);
        square += w * (new * new - old * old);
        best.consider(product, square);
    }
    best.fit.scale *= sign;
    (best.least, best.fit)
}

/// The best way to round so far.
struct Best {
    /// The error of zeros.
    zeros: f64,
    least: f64,
    /// By how much the error of zeros must be lowered to be considered.
    enough: f64,
    fit: Fit,
}

impl Best {
    #[inline(always)]
    fn consider(&mut self, product: f64, square: f64) {
        // Most are not good enough, and need no division.
        if product * product > self.enough * square && square > 0.0 {
            let scale = product / square;
            self.fit = Fit { scale: scale as f32, curvature: square };
            self.least = self.least.min(self.zeros - scale * product);
            self.enough = self.zeros - self.least * ALIKE;
        }
    }
}

/// The smallest inverse scale that is tried, as a share of the one that uses all levels. Entries
/// that fit fewer levels also fit a multiple of these that uses more than 0.43 of all. The more
/// levels there are, the less can luck make up for wider steps.
fn lowest_share(levels: Levels) -> f32 {
    match levels {
        Levels::Even(_, highest) if highest > 100.0 => 0.85,
        Levels::Even(_, highest) if highest > 16.0 => 0.7,
        _ => 0.43,
    }
}

/// An inverse scale beyond which what is cut off of the entries costs more than an error that is
/// reached anyway: `known`, or that of a scale near the one that cuts nothing off.
fn last_inverse(levels: Levels, entries: &[f32], weights: &[f32], widest: f32, known: f64) -> f32 {
    let error = |share: f32| Grid::new(widest * share, 0.0).error(levels, entries, weights);
    let least = [1.0, 0.9, 0.8].into_iter().map(error).fold(known, f64::min);
    let ends = [false, true].map(|above| levels.side(above).last());
    let cut = |inverse: f32| -> f64 {
        let lost = entries.iter().zip(weights).map(|(x, w)| {
            let end = ends[usize::from(*x * widest >= 0.0)] / inverse;
            let beyond = (x.abs() - end).max(0.0);
            w * beyond * beyond
        });
        f64::from(lost.sum::<f32>())
    };
    let (mut low, mut high) = (1.0, 4.0);
    for _ in 0..6 {
        let middle = (low + high) / 2.0;
        if cut(middle / widest.abs()) > least { high = middle } else { low = middle }
    }
    high / widest.abs()
}
