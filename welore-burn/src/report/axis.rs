//! Axes of a picture.

/// A scale from values to pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    /// The value at its beginning.
    pub(super) low: f64,
    high: f64,
    is_log: bool,
    /// The pixels of both ends.
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis with some room around values above 0, of which there is at least one.
    pub(super) fn around(
        values: impl Iterator<Item = f64> + Clone,
        is_log: bool,
        [from, to]: [f64; 2],
    ) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(0.0, f64::max);
        let (low, high) = if is_log {
            let room = (high / low).powf(0.07).max(1.1);
            (low / room, high * room)
        } else {
            let room = (0.07 * (high - low)).max(0.02 * high);
            (low - room, high + room)
        };
        Self { low, high, is_log, from, to }
    }

    /// Where a value is; the lower end for one below it.
    pub(super) fn place(&self, value: f64) -> f64 {
        let of = |value: f64| if self.is_log { value.ln() } else { value };
        let share = (of(value) - of(self.low)) / (of(self.high) - of(self.low));
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round values on it, at most about this many.
    pub(super) fn ticks(&self, most: usize) -> Vec<f64> {
        const DIGITS: [&[f64]; 5] = [
            &[1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
            &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0],
            &[1.0, 2.0, 5.0],
            &[1.0, 3.0],
            &[1.0],
        ];
        if !self.is_log {
            return self.even_ticks(most);
        }
        let mut found = Vec::new();
        for digits in DIGITS {
            found = self.ticks_of(digits);
            if found.len() <= most {
                break;
            }
        }
        let every = found.len().div_ceil(most.max(1)).max(1);
        found.into_iter().step_by(every).collect()
    }

    /// The values on it that begin with one of these digits.
    fn ticks_of(&self, digits: &[f64]) -> Vec<f64> {
        let [first, last] = [self.low, self.high].map(|end| end.log10().floor() as i32);
        let values = (first..=last).flat_map(|exponent| {
            digits.iter().map(move |digit| rounded(digit * 10f64.powi(exponent)))
        });
        values.filter(|value| (self.low..=self.high).contains(value)).collect()
    }

    fn even_ticks(&self, most: usize) -> Vec<f64> {
        let raw = (self.high - self.low) / most.max(1) as f64;
        let power = 10f64.powf(raw.log10().floor());
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power);
        let step = steps.into_iter().find(|step| *step >= raw).unwrap_or(10.0 * power);
        let [first, last] = [(self.low / step).ceil(), (self.high / step).floor()];
        (first as i64..=last as i64).map(|place| rounded(place as f64 * step)).collect()
    }
}

/// A value without the noise of computing it.
fn rounded(value: f64) -> f64 {
    format!("{value:.9e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let axis = |low, high, is_log| Axis { low, high, is_log, from: 0.0, to: 1.0 };
        assert_eq!(axis(0.004, 0.6, true).ticks(6), [0.01, 0.03, 0.1, 0.3]);
        assert_eq!(axis(70.0, 300.0, true).ticks(6), [70.0, 100.0, 150.0, 200.0, 300.0]);
        assert_eq!(axis(80.0, 112.0, false).ticks(5), [80.0, 90.0, 100.0, 110.0]);
        let wide = axis(1e-12, 1e12, true).ticks(8);
        assert!((2..=8).contains(&wide.len()), "{wide:?}");
    }
}
