use super::options::{ScheduleKind, TrainOptions};

/// The learning rate of every step: it rises linearly to the largest rate during the warm-up, then
/// falls as chosen to the floor at the last step. A pure function of the step, so resuming needs no
/// state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    largest: f64,
    floor: f64,
    warmup: usize,
    steps: usize,
}

impl From<&TrainOptions> for Schedule {
    fn from(options: &TrainOptions) -> Self {
        Self {
            kind: options.schedule,
            largest: options.lr,
            floor: options.lr * options.lr_floor,
            warmup: options.warmup,
            steps: options.steps,
        }
    }
}

impl Schedule {
    /// The learning rate of a step, counted from 0.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.largest * (step + 1) as f64 / self.warmup as f64;
        }
        let falling = self.steps.saturating_sub(self.warmup + 1).max(1);
        let way = ((step - self.warmup) as f64 / falling as f64).min(1.0);
        let left = match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Cosine => (1.0 + (std::f64::consts::PI * way).cos()) / 2.0,
            ScheduleKind::Linear => 1.0 - way,
        };
        self.floor + (self.largest - self.floor) * left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        Schedule::from(&TrainOptions {
            schedule: kind,
            lr: 1.0,
            lr_floor: 0.1,
            warmup: 4,
            steps: 15,
            ..TrainOptions::default()
        })
    }

    #[test]
    fn warm_up_is_a_line_and_the_last_step_is_at_the_floor() {
        for kind in [ScheduleKind::Cosine, ScheduleKind::Linear] {
            let rates: Vec<f64> = (0..15).map(|step| schedule(kind).rate(step)).collect();
            assert_eq!(rates[..5], [0.25, 0.5, 0.75, 1.0, 1.0]);
            assert!(rates[4..].windows(2).all(|pair| pair[0] > pair[1]));
            assert!((rates[9] - 0.55).abs() < 1e-12, "halfway is halfway");
            assert!((rates[14] - 0.1).abs() < 1e-12);
        }
    }

    #[test]
    fn constant_stays_and_no_warm_up_starts_at_the_top() {
        assert_eq!(schedule(ScheduleKind::Constant).rate(14), 1.0);
        let options = TrainOptions { warmup: 0, lr: 2.0, ..TrainOptions::default() };
        assert_eq!(Schedule::from(&options).rate(0), 2.0);
    }
}
