//! How long one is willing to wait.

use welore_burn::named::Named;

/// How long one is willing to wait: other defaults for the numbers of windows. What is given always
/// decides.
#[derive(Debug)]
pub struct Effort {
    /// Its name.
    name: &'static str,
    /// One line of help.
    about: &'static str,
    /// The usual number of windows of a calibration is multiplied by the first of these, and divided by
    /// the second.
    windows: [usize; 2],
    /// The same for the windows on which gradients are computed.
    gradient_windows: [usize; 2],
}

static QUICK: Effort = Effort {
    name: "quick",
    about: "a quarter of the usual windows to calibrate on",
    windows: [1, 4],
    gradient_windows: [1, 4],
};

static NORMAL: Effort = Effort {
    name: "normal",
    about: "the usual defaults",
    windows: [1, 1],
    gradient_windows: [1, 1],
};

static THOROUGH: Effort = Effort {
    name: "thorough",
    about: "twice the usual windows to calibrate on, where the text has them",
    windows: [2, 1],
    gradient_windows: [2, 1],
};

static EFFORTS: [&Effort; 3] = [&QUICK, &NORMAL, &THOROUGH];

impl Named for &'static Effort {
    fn all() -> &'static [Self] {
        &EFFORTS
    }

    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }
}

impl Effort {
    /// The one that changes no default.
    pub fn normal() -> &'static Self {
        &NORMAL
    }

    /// How many windows are calibrated on, where so many are usual.
    pub fn windows(&self, usual: usize) -> usize {
        scaled(usual, self.windows)
    }

    /// How many windows gradients are computed on, where so many are usual.
    pub fn gradient_windows(&self, usual: usize) -> usize {
        scaled(usual, self.gradient_windows)
    }
}

/// A share of a number of windows, at least 1.
fn scaled(usual: usize, [times, by]: [usize; 2]) -> usize {
    usual.saturating_mul(times).div_ceil(by).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_a_share_of_the_usual_ones() {
        let of = |effort: &Effort| [effort.windows(64), effort.gradient_windows(18)];
        assert_eq!([of(&QUICK), of(&NORMAL), of(&THOROUGH)], [[16, 5], [64, 18], [128, 36]]);
        assert_eq!(QUICK.windows(1), 1);
    }
}
