//! Logits in 16 bits each.

use rayon::prelude::*;

use super::super::divergence::largest;

/// What is further below the largest logit counts as being this far below: e⁻³² is so small that
/// a whole vocabulary of such tokens has a probability below 10⁻⁸.
const DEPTH: f64 = 32.0;

/// The number of steps from the largest logit to the smallest.
const STEPS: f64 = 65_535.0;

/// What is kept of a prediction besides its steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Negative log-likelihood of the right token.
    pub nll: f64,
    /// The most likely token.
    pub top: u32,
    /// How far the smallest logit is below the largest, at most [`DEPTH`].
    pub depth: f32,
}

impl Row {
    /// Whether a file may hold it.
    pub fn is_possible(&self, vocab_size: usize) -> bool {
        let is_loss = (0.0..f64::INFINITY).contains(&self.nll);
        let is_depth = (0.0..=DEPTH).contains(&f64::from(self.depth));
        is_loss && is_depth && (self.top as usize) < vocab_size
    }
}

/// The predictions of a window, rounded.
#[derive(Debug, Default)]
pub struct Rounded {
    pub rows: Vec<Row>,
    /// Row after row, how many steps each logit is below the largest: 16 bits, little-endian.
    pub steps: Vec<u8>,
}

/// Rounds logits, row after row. There may be more targets than rows.
pub fn round(logits: &[f32], targets: &[u32], vocab_size: usize, into: &mut Rounded) {
    let begin = into.steps.len();
    into.steps.resize(begin + 2 * logits.len(), 0);
    let steps = into.steps[begin..].par_chunks_mut(2 * vocab_size);
    let rows = logits.par_chunks(vocab_size).zip(steps).enumerate();
    let rows: Vec<Row> =
        rows.map(|(row, (logits, steps))| round_row(logits, targets[row], steps)).collect();
    into.rows.extend(rows);
}

fn round_row(logits: &[f32], target: u32, steps: &mut [u8]) -> Row {
    let (top, most) = largest(logits);
    let most = f64::from(most);
    let (mut sum, mut least) = (0.0f64, most);
    for logit in logits {
        let logit = f64::from(*logit);
        sum += (logit - most).exp();
        least = least.min(logit);
    }
    let nll = sum.ln() - (f64::from(logits[target as usize]) - most);
    // Rounded first, so that steps are those of the number that is kept.
    let depth = (most - least).min(DEPTH) as f32;
    let scale = if depth > 0.0 { STEPS / f64::from(depth) } else { 0.0 };
    let (steps, _) = steps.as_chunks_mut::<2>();
    for (step, logit) in steps.iter_mut().zip(logits) {
        let below = (most - f64::from(*logit)) * scale;
        *step = (below.round().min(STEPS) as u16).to_le_bytes();
    }
    Row { nll, top: top as u32, depth }
}

/// The logits of some rows, less the largest of each. There may be more steps than those of the
/// rows.
///
/// # Panics
///
/// Panics if there are fewer.
pub fn logits(rows: &[Row], vocab_size: usize, steps: &[u8]) -> Vec<f32> {
    let mut logits = vec![0.0; rows.len() * vocab_size];
    let (steps, _) = steps.as_chunks::<2>();
    let steps = &steps[..logits.len()];
    let chunks = logits.par_chunks_mut(vocab_size).zip(steps.par_chunks(vocab_size)).zip(rows);
    chunks.for_each(|((logits, steps), row)| {
        let step = f64::from(row.depth) / STEPS;
        for (logit, below) in logits.iter_mut().zip(steps) {
            *logit = (-step * f64::from(u16::from_le_bytes(*below))) as f32;
        }
    });
    logits
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of a few sizes, and the distance between the largest and the smallest of each row.
    fn samples() -> (Vec<f32>, Vec<f64>) {
        let row = |scale: f32, shift: f32| {
            (0..40).map(move |i| scale * ((i * 29 % 40) as f32 / 39.0 - 0.5) + shift)
        };
        let logits = row(1e-3, 5.0).chain(row(12.0, -100.0)).chain(row(31.9, 0.0));
        (logits.collect(), vec![1e-3, 12.0, 31.9])
    }

    #[test]
    fn logits_come_back_within_half_a_step() {
        let (exact, depths) = samples();
        let mut rounded = Rounded::default();
        round(&exact, &[3, 4, 5, 6], 40, &mut rounded);
        assert_eq!((rounded.rows.len(), rounded.steps.len()), (3, 2 * 3 * 40));
        let back = logits(&rounded.rows, 40, &rounded.steps);
        for (place, depth) in depths.into_iter().enumerate() {
            let (exact, back) = (&exact[40 * place..][..40], &back[40 * place..][..40]);
            let (top, most) = largest(exact);
            assert_eq!(rounded.rows[place].top as usize, top);
            assert_eq!(back[top], 0.0);
            for (a, b) in exact.iter().zip(back) {
                let error = (f64::from(*a) - f64::from(most) - f64::from(*b)).abs();
                // The result is f32.
                assert!(error < depth / STEPS / 2.0 + 3e-6, "{a} and {b} of {depth}");
            }
            let sum: f64 = exact.iter().map(|x| f64::from(*x).exp()).sum();
            let nll = sum.ln() - f64::from(exact[3 + place]);
            assert!((rounded.rows[place].nll - nll).abs() < 1e-9);
        }
    }

    #[test]
    fn extreme_rows_are_rounded_too() {
        let mut rounded = Rounded::default();
        // All the same; far below; impossible; not a number.
        let rows = [[2.0; 3], [0.0, -31.0, -1e6], [0.0, f32::NEG_INFINITY, -1.0], [f32::NAN; 3]];
        round(rows.as_flattened(), &[0; 4], 3, &mut rounded);
        let depths: Vec<f32> = rounded.rows.iter().map(|row| row.depth).collect();
        assert_eq!(depths[..3], [0.0, 32.0, 32.0]);
        assert!(rounded.rows[3].nll.is_nan());
        let back = logits(&rounded.rows[..3], 3, &rounded.steps);
        assert_eq!(back[..3], [0.0; 3]);
        assert!((back[4] + 31.0).abs() < 3e-4 && back[5] == -32.0, "{back:?}");
        assert!(back[7] == -32.0 && (back[8] + 1.0).abs() < 3e-4, "{back:?}");
        assert!(!rounded.rows[3].is_possible(3) && rounded.rows[1].is_possible(3));
        assert!(!Row { top: 3, ..rounded.rows[1] }.is_possible(3));
        assert!(!Row { depth: 32.5, ..rounded.rows[1] }.is_possible(3));
        assert!(!Row { depth: f32::NAN, ..rounded.rows[1] }.is_possible(3));
    }
}
