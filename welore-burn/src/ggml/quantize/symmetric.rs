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
    let up = sweep(levels, entries, weights, 1.0, f64::INFINITY);
    if levels.is_symmetric() {
        return [up.1, up.1];
    }
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
    let (mut product, mut square) = (0.0f64, 0.0f64);
    // Inverse scale, entry, level; as integers, which order like the positive floats in them.
    let mut changes: Vec<u64> = Vec::with_capacity(PART_LEN * 8);
    for (i, x) in entries.iter().enumerate() {
        let (side, size) = (side(*x), x.abs());
        let passed = side.steps.partition_point(|step| *step < size * from);
        let (level, w) = (f64::from(side.levels[passed]), f64::from(weights[i]));
        product += w * f64::from(*x * sign) * level;
        square += w * level * level;
        let within = side.steps[passed..].iter().map(|step| step / size);
        for (k, inverse) in within.take_while(|inverse| *inverse <= to).enumerate() {
            changes.push((u64::from(inverse.to_bits()) << 32) | ((i << 8) | (passed + k)) as u64);
        }
    }
    changes.sort_unstable();
    let squares = entries.iter().zip(weights).map(|(x, w)| f64::from(*w) * f64::from(*x).powi(2));
    let zeros: f64 = squares.sum();
    let (mut least, mut best) = (zeros, Fit::default());
    let mut consider = |product: f64, square: f64| {
        if square > 0.0 && zeros - product * product / square <= least * ALIKE {
            let scale = (product / square) as f32 * sign;
            best = Fit { scale, curvature: square };
            least = least.min(zeros - product * product / square);
        }
    };
    consider(product, square);
    for change in changes {
        let (i, k) = (((change >> 8) & 0xff) as usize, (change & 0xff) as usize);
        let (x, w, side) = (entries[i], f64::from(weights[i]), side(entries[i]));
        let (old, new) = (f64::from(side.levels[k]), f64::from(side.levels[k + 1]));
        product += w * f64::from(x * sign) * (new - old);
        square += w * (new * new - old * old);
        consider(product, square);
    }
    (least, best)
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
