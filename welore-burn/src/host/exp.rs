/// `e^x`, with a relative error below 2e-7; 0 where it would be less than 2.5e-38, and infinite above the
/// largest number. In place of a call for each number, several are computed side by side.
///
/// `2^n · 2^f` with a whole `n` and `|f| ≤ 1/2`; the polynomial is that of Cephes' `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // From here on floats have no fractions: adding it rounds to the nearest, and leaves the whole number
    // in the lowest bits.
    const WHOLE: f32 = 12_582_912.0;
    const LOWEST: f32 = -86.6;
    const HIGHEST: f32 = 88.722_83;
    // ln 2 in two parts, the first of which is exact times any `n`.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let inside = x.clamp(LOWEST, HIGHEST);
    let shifted = inside * std::f32::consts::LOG2_E + WHOLE;
    let n = shifted - WHOLE;
    let r = (inside - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + coefficient;
    }
    let fraction = p * (r * r) + (r + 1.0);
    // Half of the power twice: 2^128 alone is no number, but what it is multiplied by may be below 1.
    let half = f32::from_bits((shifted.to_bits().wrapping_add(127 - 1)) << 23);
    let power = (half * fraction) * 2.0;
    if x < LOWEST {
        0.0
    } else if x > HIGHEST {
        f32::INFINITY
    } else {
        // NaN stays NaN.
        power
    }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn it_is_the_exponential_function() {
        let mut worst = 0.0f64;
        for step in 0..2_000_000 {
            let x = -86.6 + step as f32 * (175.3 / 2_000_000.0);
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-100.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(88.72).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }
}
