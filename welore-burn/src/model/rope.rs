use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

/// How rotary frequencies are scaled for contexts longer than the one that a model was first
/// trained on.
///
/// The frequencies of [`Dynamic`](Self::Dynamic) and [`LongRope`](Self::LongRope) depend on the
/// length of the sequence, and all positions of a sequence have the same ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// Not scaled.
    None,
    /// Every frequency is divided by `factor` (position interpolation, arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// The base grows with the length of sequences that are longer than `original_context`: at `s`
    /// times that length the lowest frequency is divided by `1 + factor (s - 1)`, and the highest
    /// is kept (NTK-aware scaling).
    Dynamic {
        /// How fast the base grows.
        factor: f64,
        /// Longest sequence whose frequencies are not scaled, in tokens.
        original_context: f64,
    },
    /// LLaMA 3.1: low frequencies are divided, high ones are kept, with a smooth transition between
    /// them.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Context in the first training, in tokens.
        original_context: f64,
    },
    /// YaRN (arXiv 2309.00071): low frequencies are divided, high ones are kept, with a ramp over
    /// the channels between them, and queries and keys are multiplied by `attention_factor`.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Context in the first training, in tokens.
        original_context: f64,
        /// Turns within `original_context` from which on a frequency is kept.
        beta_fast: f64,
        /// Turns within `original_context` up to which a frequency is divided by all of `factor`.
        beta_slow: f64,
        /// Whether the ramp begins and ends at whole channels.
        truncate: bool,
        /// Multiplies cosines and sines, so scores are multiplied by its square.
        attention_factor: f64,
    },
    /// LongRoPE (arXiv 2402.13753): each frequency has a divisor of its own, one for sequences up
    /// to `original_context` and one for longer ones.
    LongRope {
        /// Divisors for short sequences, one for each frequency.
        short_factors: Vec<f64>,
        /// Divisors for long sequences, one for each frequency.
        long_factors: Vec<f64>,
        /// Longest sequence that is a short one, in tokens.
        original_context: f64,
        /// Multiplies cosines and sines, also of short sequences.
        attention_factor: f64,
    },
}

impl RopeScaling {
    /// The frequencies of a sequence of `len` tokens, in radians per position, from the highest to
    /// the lowest: `theta^(-2i / width)` for the `width / 2` pairs of rotated channels, scaled.
    pub(super) fn frequencies(&self, theta: f64, width: usize, len: usize) -> Vec<f64> {
        let count = width / 2;
        let plain = |theta: f64, i: usize| theta.powf(-2.0 * i as f64 / width as f64);
        let each = |scaled: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
            (0..count).map(|i| scaled(i, plain(theta, i))).collect()
        };
        match *self {
            Self::None => each(&|_, frequency| frequency),
            Self::Linear { factor } => each(&|_, frequency| frequency / factor),
            Self::Dynamic { factor, original_context } => {
                let stretch = (len as f64 / original_context).max(1.0);
                let width = width as f64;
                let grown = 1.0 + factor * (stretch - 1.0);
                let theta = theta * grown.powf(width / (width - 2.0));
                (0..count).map(|i| plain(theta, i)).collect()
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                each(&|_, frequency| {
                    let turns = original_context * frequency / TAU;
                    let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    divided(frequency, factor, kept)
                })
            }
            Self::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
                // The channel whose frequency turns so often within the original context.
                let channel = |turns: f64| {
                    width as f64 * (original_context / (turns * TAU)).ln() / (2.0 * theta.ln())
                };
                let (begin, end) = (channel(beta_fast), channel(beta_slow));
                let (begin, end) =
                    if truncate { (begin.floor(), end.ceil()) } else { (begin, end) };
                // The last channel is that of the whole width, as in the paper's code.
                let (begin, end) = (begin.max(0.0), end.min(width as f64 - 1.0));
                let span = if begin == end { 0.001 } else { end - begin };
                each(&|i, frequency| {
                    let ramp = ((i as f64 - begin) / span).clamp(0.0, 1.0);
                    divided(frequency, factor, 1.0 - ramp)
                })
            }
            Self::LongRope { ref short_factors, ref long_factors, original_context, .. } => {
                let factors =
                    if len as f64 > original_context { long_factors } else { short_factors };
                let both = factors.iter().enumerate().take(count);
                both.map(|(i, factor)| plain(theta, i) / factor).collect()
            }
        }
    }

    /// What cosines and sines are multiplied by.
    pub(super) fn attention_factor(&self) -> f64 {
        match *self {
            Self::Yarn { attention_factor, .. } | Self::LongRope { attention_factor, .. } => {
                attention_factor
            }
            _ => 1.0,
        }
    }

    /// Whether sequences of different lengths may have different frequencies.
    pub(super) fn depends_on_length(&self) -> bool {
        matches!(self, Self::Dynamic { .. } | Self::LongRope { .. })
    }

    /// Whether sequences of these two lengths have the same frequencies.
    pub(super) fn is_same(&self, a: usize, b: usize) -> bool {
        let (a, b) = (a as f64, b as f64);
        match *self {
            Self::Dynamic { original_context, .. } => a.max(b) <= original_context || a == b,
            Self::LongRope { original_context, .. } => {
                (a > original_context) == (b > original_context)
            }
            _ => true,
        }
    }

    /// The longest context of a model whose configuration states `stated` tokens. That number is
    /// often the one before scaling where scaling was added to a finished model.
    pub(super) fn context(&self, stated: usize) -> usize {
        let scaled = match *self {
            Self::Dynamic { factor, original_context }
            | Self::Yarn { factor, original_context, .. } => factor * original_context,
            _ => 0.0,
        };
        // No model has a longer one, and later products do not overflow.
        stated.max(scaled.min(f64::from(1 << 24)) as usize)
    }
}

/// A frequency between that divided by `factor`, where `kept` is 0, and itself, where it is 1.
fn divided(frequency: f64, factor: f64, kept: f64) -> f64 {
    let kept = kept.clamp(0.0, 1.0);
    (1.0 - kept) * frequency / factor + kept * frequency
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert!((got / want - 1.0).abs() < 1e-12, "{got} for {want}");
        }
    }

    #[test]
    fn dynamic_frequencies_are_plain_up_to_the_original_context_and_lower_beyond() {
        let dynamic = RopeScaling::Dynamic { factor: 3.0, original_context: 16.0 };
        let plain = RopeScaling::None.frequencies(1e4, 8, 99);
        for len in [0, 1, 16] {
            close(&dynamic.frequencies(1e4, 8, len), &plain);
        }
        // At twice the context the lowest frequency is divided by 1 + 3.
        let twice = dynamic.frequencies(1e4, 8, 32);
        close(&[twice[0], twice[3]], &[1.0, plain[3] / 4.0]);
        assert!(dynamic.is_same(3, 16) && !dynamic.is_same(16, 17) && !dynamic.is_same(20, 21));
        assert_eq!(dynamic.context(16), 48);
    }

    #[test]
    fn longrope_has_one_set_of_divisors_up_to_the_original_context_and_one_beyond() {
        let longrope = RopeScaling::LongRope {
            short_factors: vec![1.0, 2.0],
            long_factors: vec![3.0, 5.0],
            original_context: 16.0,
            attention_factor: 1.5,
        };
        close(&longrope.frequencies(100.0, 4, 16), &[1.0, 0.1 / 2.0]);
        close(&longrope.frequencies(100.0, 4, 17), &[1.0 / 3.0, 0.1 / 5.0]);
        assert!(longrope.is_same(1, 16) && longrope.is_same(17, 99) && !longrope.is_same(16, 17));
        assert_eq!((longrope.attention_factor(), longrope.context(64)), (1.5, 64));
    }

    #[test]
    fn yarn_keeps_fast_frequencies_and_divides_slow_ones() {
        let yarn = |truncate| RopeScaling::Yarn {
            factor: 4.0,
            original_context: 4096.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate,
            attention_factor: 1.0,
        };
        let plain = RopeScaling::None.frequencies(1e4, 128, 1);
        for truncate in [true, false] {
            let scaled = yarn(truncate).frequencies(1e4, 128, 1);
            close(&scaled[..20], &plain[..20]);
            let slow: Vec<f64> = plain[46..].iter().map(|frequency| frequency / 4.0).collect();
            close(&scaled[46..], &slow);
        }
        // The ramp is from channel 20.9 to 45.03, or from 20 to 46.
        let at = |truncate: bool, begin: f64, end: f64| {
            let kept = 1.0 - (33.0 - begin) / (end - begin);
            let want = plain[33] * (kept + (1.0 - kept) / 4.0);
            let got = yarn(truncate).frequencies(1e4, 128, 1)[33];
            assert!((got / want - 1.0).abs() < 1e-3, "{got} for {want}");
        };
        at(true, 20.0, 46.0);
        at(false, 20.944, 45.027);
        assert_eq!(yarn(true).context(4096), 16_384);
        assert_eq!(yarn(true).context(32_768), 32_768);
    }
}
