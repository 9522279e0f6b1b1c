//! The scales of a block, as they are stored.

use half::f16;

use super::format::{Format, Grid, Grouping, Levels, Scales};
use super::symmetric::best_scales;
use super::{offset, symmetric};

/// Super scales that are tried on the parts themselves, out of those that promise most.
const TRIED: usize = 4;

/// The scales for which the entries of a block, each as the nearest number that it can hold, have
/// the least weighted squared error that was found.
pub(super) fn choose_scales(format: &Format, entries: &[f32], weights: &[f32]) -> Scales {
    // Half the smallest f16: nothing in the block is nearer to another number than to zero.
    if entries.iter().all(|x| x.abs() <= 2f32.powi(-25)) {
        return Scales::default();
    }
    match format.grouping {
        Grouping::Scale => single(format.levels, entries, weights),
        Grouping::ScaleAndMinimum => single_offset(format.levels, entries, weights),
        Grouping::Scales(lowest, highest) => {
            Parts::new(format, entries, weights).symmetric(lowest, highest)
        }
        Grouping::ScalesAndMinima(highest) => Parts::new(format, entries, weights).offset(highest),
    }
}

/// The f16 next to a number, finite.
fn nearest(value: f64) -> f16 {
    f16::from_f32((value as f32).clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

/// An f16 and its finite neighbours.
fn around(value: f64) -> impl Iterator<Item = f16> {
    let bits = nearest(value).to_bits();
    let all = [bits, bits.wrapping_sub(1), bits.wrapping_add(1)].map(f16::from_bits);
    all.into_iter().filter(|value| value.is_finite())
}

fn single(levels: Levels, entries: &[f32], weights: &[f32]) -> Scales {
    let (mut least, mut best) = (f64::INFINITY, f16::ZERO);
    for fit in best_scales(levels, entries, weights) {
        for scale in around(f64::from(fit.scale)) {
            let error = Grid::new(scale.to_f32(), 0.0).error(levels, entries, weights);
            if error < least {
                (least, best) = (error, scale);
            }
        }
    }
    Scales::single(best, f16::ZERO)
}

fn single_offset(levels: Levels, entries: &[f32], weights: &[f32]) -> Scales {
    let fit = offset::best_offset(levels, entries, weights, false);
    let (mut least, mut best) = (f64::INFINITY, Scales::default());
    for scale in around(f64::from(fit.scale)) {
        for minimum in around(f64::from(fit.minimum_at(scale.to_f32()))) {
            let grid = Grid::new(scale.to_f32(), minimum.to_f32());
            let error = grid.error(levels, entries, weights);
            if error < least {
                (least, best) = (error, Scales::single(scale, -minimum));
            }
        }
    }
    best
}

/// A block whose parts have scales of their own, as multiples of one that is stored.
struct Parts<'a> {
    levels: Levels,
    parts: Vec<(&'a [f32], &'a [f32])>,
}

impl<'a> Parts<'a> {
    fn new(format: &Format, entries: &'a [f32], weights: &'a [f32]) -> Self {
        let len = format.part_len;
        let parts = entries.chunks_exact(len).zip(weights.chunks_exact(len)).collect();
        Self { levels: format.levels, parts }
    }

    fn symmetric(&self, lowest: f32, highest: f32) -> Scales {
        let fits: Vec<symmetric::Fit> =
            self.parts.iter().map(|(x, w)| best_scales(self.levels, x, w)[0]).collect();
        let widest =
            fits.iter().fold(0.0f32, |w, f| if f.scale.abs() > w.abs() { f.scale } else { w });
        let want = |((_, weights), fit): (&(&[f32], &[f32]), &symmetric::Fit)| {
            Want::scale(self.levels, fit.scale, fit.curvature, weights)
        };
        let wanted: Vec<Want> = self.parts.iter().zip(&fits).map(want).collect();
        // The widest scale takes one of the larger multiples, of either sign; where there are very
        // many, the sign hardly matters.
        let signs: &[f32] = if highest > 100.0 { &[1.0] } else { &[1.0, -1.0] };
        let candidates =
            large(-lowest).flat_map(|multiple| signs.iter().map(move |s| widest * s / multiple));
        let best = promising(candidates, &wanted, lowest, highest);
        let try_scale =
            |scale: f16, reach: i32| self.symmetric_at(scale, &fits, [lowest, highest], reach);
        let start =
            best.map(|scale| try_scale(scale, 0)).into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
        let (mut least, mut best) = start.expect("scales were tried");
        for _ in 0..4 {
            let wide = try_scale(self.refit(&best), 2);
            let same = try_scale(best.scale, 2);
            let better = if wide.0 < same.0 { wide } else { same };
            if better.0 >= least {
                break;
            }
            (least, best) = better;
        }
        best
    }

    /// The best multiples of a scale, within `reach` of those next to what the parts want.
    fn symmetric_at(
        &self,
        scale: f16,
        fits: &[symmetric::Fit],
        [lowest, highest]: [f32; 2],
        reach: i32,
    ) -> (f64, Scales) {
        let (mut total, mut scales) = (0.0, Scales { scale, ..Scales::default() });
        let unit = scale.to_f32();
        for (i, ((x, w), fit)) in self.parts.iter().zip(fits).enumerate() {
            let (mut least, mut best) = (f64::INFINITY, 0.0f32);
            for multiple in multiples(fit.scale, unit, lowest, highest, reach) {
                let error = Grid::new(unit * multiple, 0.0).error(self.levels, x, w);
                if error < least {
                    (least, best) = (error, multiple);
                }
            }
            total += least;
            scales.scales[i] = best as i8;
        }
        (total, scales)
    }

    /// The scale of the least error for the levels and multiples that these have.
    fn refit(&self, scales: &Scales) -> f16 {
        let (mut product, mut square) = (0.0f64, 0.0f64);
        for (i, (entries, weights)) in self.parts.iter().enumerate() {
            let grid = scales.grid(i);
            for (x, w) in entries.iter().zip(*weights) {
                let of =
                    f64::from(self.levels.nearest(grid.ratio(*x))) * f64::from(scales.scales[i]);
                product += f64::from(*w) * of * f64::from(*x);
                square += f64::from(*w) * of * of;
            }
        }
        if square > 0.0 { nearest(product / square) } else { scales.scale }
    }

    fn offset(&self, highest: f32) -> Scales {
        let fits: Vec<offset::Fit> =
            self.parts.iter().map(|(x, w)| offset::best_offset(self.levels, x, w, true)).collect();
        let candidates = |wanted: &[Want]| {
            let widest = wanted.iter().fold(0.0f32, |most, want| most.max(want.value));
            promising(large(highest).map(|multiple| widest / multiple), wanted, 0.0, highest)
        };
        let want = |((_, weights), fit): (&(&[f32], &[f32]), &offset::Fit)| {
            Want::scale(self.levels, fit.scale, fit.curvature, weights)
        };
        let scales: Vec<Want> = self.parts.iter().zip(&fits).map(want).collect();
        let minima: Vec<Want> =
            fits.iter().map(|fit| Want::minimum(fit.minimum, fit.weight)).collect();
        let (scales, minima) = (candidates(&scales), candidates(&minima));
        // First the scale, with the likeliest minimum, then the minimum.
        let (mut least, mut best) = (f64::INFINITY, Scales::default());
        for scale in scales {
            let tried = self.offset_at(scale, minima[0], &fits, highest, 0);
            if tried.0 < least {
                (least, best) = tried;
            }
        }
        for minimum in &minima[1..] {
            let tried = self.offset_at(best.scale, *minimum, &fits, highest, 0);
            if tried.0 < least {
                (least, best) = tried;
            }
        }
        for _ in 0..4 {
            let (scale, minimum) = self.refit_offset(&best);
            let moved = self.offset_at(scale, minimum, &fits, highest, 1);
            let same = self.offset_at(best.scale, best.minimum, &fits, highest, 1);
            let better = if moved.0 < same.0 { moved } else { same };
            if better.0 >= least {
                break;
            }
            (least, best) = better;
        }
        best
    }

    /// The best multiples of a scale and a minimum, near those that the parts want.
    fn offset_at(
        &self,
        scale: f16,
        minimum: f16,
        fits: &[offset::Fit],
        highest: f32,
        reach: i32,
    ) -> (f64, Scales) {
        let (mut total, mut scales) = (0.0, Scales { scale, minimum, ..Scales::default() });
        let (unit, below) = (scale.to_f32(), minimum.to_f32());
        for (i, ((x, w), fit)) in self.parts.iter().zip(fits).enumerate() {
            let (mut least, mut best) = (f64::INFINITY, (0.0f32, 0.0f32));
            for multiple in multiples(fit.scale, unit, 0.0, highest, reach) {
                let wanted = -fit.minimum_at(unit * multiple);
                for under in multiples(wanted, below, 0.0, highest, 0) {
                    let grid = Grid::new(unit * multiple, -(below * under));
                    let error = grid.error(self.levels, x, w);
                    if error < least {
                        (least, best) = (error, (multiple, under));
                    }
                }
            }
            total += least;
            (scales.scales[i], scales.minima[i]) = (best.0 as i8, best.1 as u8);
        }
        (total, scales)
    }

    /// Scale and minimum of the least error for the levels and multiples that these have.
    fn refit_offset(&self, scales: &Scales) -> (f16, f16) {
        // Products of what scale and minimum are multiplied with, and of the entries.
        let (mut ss, mut sm, mut mm, mut sx, mut mx) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for (i, (entries, weights)) in self.parts.iter().enumerate() {
            let grid = scales.grid(i);
            let below = -f64::from(scales.minima[i]);
            for (x, w) in entries.iter().zip(*weights) {
                let of =
                    f64::from(self.levels.nearest(grid.ratio(*x))) * f64::from(scales.scales[i]);
                let (x, w) = (f64::from(*x), f64::from(*w));
                ss += w * of * of;
                sm += w * of * below;
                mm += w * below * below;
                sx += w * of * x;
                mx += w * below * x;
            }
        }
        let determinant = ss * mm - sm * sm;
        if determinant > 1e-9 * ss * mm {
            let scale = (sx * mm - mx * sm) / determinant;
            let minimum = (mx * ss - sx * sm) / determinant;
            if scale > 0.0 && minimum > 0.0 {
                return (nearest(scale), nearest(minimum));
            }
        }
        (scales.scale, scales.minimum)
    }
}

/// Integers around `wanted / unit` within limits: the two next to it, and `reach` more on each side.
fn multiples(
    wanted: f32,
    unit: f32,
    lowest: f32,
    highest: f32,
    reach: i32,
) -> impl Iterator<Item = f32> {
    let ratio = if unit == 0.0 { 0.0 } else { wanted / unit };
    let first = ratio.clamp(lowest, highest).floor() - reach as f32;
    let count = 2 + 2 * reach;
    (0..count).map(move |k| first + k as f32).filter(move |m| (lowest..=highest).contains(m))
}

/// Multiples that the widest part of a block may take: the upper half of them, and halves between
/// where there are few.
fn large(most: f32) -> impl Iterator<Item = f32> {
    let step = if most > 100.0 { 1.0 } else { 0.5 };
    let count = (most / 2.0 / step) as usize + 2;
    (0..count).map(move |k| most + step * (1.0 - k as f32))
}

/// A scale or a minimum that a part wants, and what another one costs.
struct Want {
    value: f32,
    /// The cost of the square of a small change.
    curvature: f64,
    /// The most that a wider scale costs, as a share of its square: entries are rounded to it anew.
    rounding: f64,
}

impl Want {
    fn scale(levels: Levels, value: f32, curvature: f64, weights: &[f32]) -> Self {
        let weight: f64 = weights.iter().map(|w| f64::from(*w)).sum();
        Self { value, curvature, rounding: weight * f64::from(levels.gap()).powi(2) / 12.0 }
    }

    fn minimum(value: f32, curvature: f64) -> Self {
        Self { value: -value, curvature, rounding: f64::INFINITY }
    }

    /// What it costs to have this instead.
    fn cost(&self, stored: f32) -> f64 {
        let change = self.curvature * f64::from(stored - self.value).powi(2);
        match stored.abs() > self.value.abs() {
            true => change.min(self.rounding * f64::from(stored).powi(2)),
            false => change,
        }
    }
}

/// The stored scales whose multiples are nearest to what the parts want, the best first.
fn promising(
    candidates: impl Iterator<Item = f32>,
    wanted: &[Want],
    lowest: f32,
    highest: f32,
) -> [f16; TRIED] {
    let mut best = [(f64::INFINITY, f16::ZERO); TRIED];
    for candidate in candidates.filter(|candidate| candidate.is_finite()) {
        let stored = nearest(f64::from(candidate));
        let unit = stored.to_f32();
        let inverse = if unit == 0.0 { 0.0 } else { 1.0 / unit };
        let multiple = |want: &Want| Levels::Even(lowest, highest).nearest(want.value * inverse);
        let cost = wanted.iter().map(|want| want.cost(unit * multiple(want))).sum::<f64>();
        let worst = TRIED - 1;
        if cost < best[worst].0 && best.iter().all(|(_, other)| *other != stored) {
            best[worst] = (cost, stored);
            best.sort_by(|a, b| a.0.total_cmp(&b.0));
        }
    }
    best.map(|(_, scale)| scale)
}
