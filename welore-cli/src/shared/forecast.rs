//! What a dry run expects of the real one, from parts of the work that it tried on this machine.

use std::time::{Duration, Instant};

use welore_burn::progress::{Interrupted, Progress};
use welore_burn::train::peak_memory;

use crate::format;

/// What work is expected to take.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// Time until it is done.
    pub seconds: f64,
    /// The most memory of this machine that it uses at a time; `None` where the system does not
    /// report it.
    pub peak_bytes: Option<u64>,
    /// What was tried, such as `3 steps`.
    pub tried: String,
    /// Whether the device uses the memory of this machine. That of a GPU is not measured.
    pub is_host: bool,
}

impl Forecast {
    /// Whose memory [`peak_bytes`](Forecast::peak_bytes) is, in JSON: `all` of what the work uses, or
    /// only that of this machine, the `host` of a GPU.
    pub fn peak_of(&self) -> &'static str {
        if self.is_host { "all" } else { "host" }
    }

    /// What is expected, as a line for people.
    pub fn line(&self) -> String {
        let Self { seconds, peak_bytes, tried, is_host } = self;
        let time = format::time(*seconds);
        let memory = match (peak_bytes, is_host) {
            (None, _) => String::new(),
            (Some(bytes), true) => format!(" and {} of memory", format::bytes(*bytes)),
            (Some(bytes), false) => {
                let bytes = format::bytes(*bytes);
                format!(" and {bytes} of this machine's memory (the GPU's was not measured)")
            }
        };
        format!("expected to take about {time}{memory}, from {tried} tried here")
    }
}

/// The most memory that this process has used so far, and `more`.
pub fn peak_with(more: u64) -> Option<u64> {
    Some(peak_memory()?.saturating_add(more))
}

/// What something takes at `x`, if it is in proportion to a number apart from a fixed part, and was
/// measured for two numbers, `(x, y)`, the second of which is not the smaller one. It never falls.
pub fn on_line(small: (usize, f64), large: (usize, f64), x: usize) -> f64 {
    let [from, to, x] = [small.0, large.0, x].map(|x| x as f64);
    if to <= from {
        return large.1;
    }
    let slope = ((large.1 - small.1) / (to - from)).max(0.0);
    large.1 + slope * (x - to)
}

/// Notes when the steps of some work begin, and stops it once it has seen enough of them.
#[derive(Debug)]
pub struct Stopwatch<'b, P> {
    bar: &'b mut P,
    /// The kind of work, counted from 0, that is not seen to its end, and the number of its steps
    /// that are enough.
    enough: Option<(usize, usize)>,
    /// The beginnings of steps, for each kind of work in turn.
    steps: Vec<Vec<Instant>>,
    stopped: bool,
}

impl<'b, P: Progress> Stopwatch<'b, P> {
    /// One that stops nothing by itself.
    pub fn new(bar: &'b mut P) -> Self {
        Self { bar, enough: None, steps: Vec::new(), stopped: false }
    }

    /// One that stops the work after so many steps of this kind of work, counted from 0.
    pub fn stopping(bar: &'b mut P, kind: usize, steps: usize) -> Self {
        Self { enough: Some((kind, steps)), ..Self::new(bar) }
    }

    /// When the steps of a kind of work began.
    pub fn steps(&self, kind: usize) -> &[Instant] {
        self.steps.get(kind).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether the work was stopped because enough was seen.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }
}

impl<P: Progress> Progress for Stopwatch<'_, P> {
    fn begin(&mut self, what: &str, total: usize) {
        self.steps.push(Vec::new());
        self.bar.begin(&format!("trying: {what}"), total);
    }

    fn count_in(&mut self, unit: &'static str) {
        self.bar.count_in(unit);
    }

    fn step(&mut self, item: &str) -> Result<(), Interrupted> {
        self.bar.step(item)?;
        let kind = self.steps.len().saturating_sub(1);
        let Some(steps) = self.steps.last_mut() else { return Ok(()) };
        steps.push(Instant::now());
        if self.enough.is_some_and(|(of, most)| of == kind && steps.len() >= most) {
            self.stopped = true;
            return Err(Interrupted);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Interrupted> {
        self.bar.check()
    }
}

/// The mean time from one instant to the next; 0 if there are fewer than two.
pub fn mean_gap(instants: &[Instant]) -> Duration {
    match instants {
        [first, .., last] => (*last - *first) / (instants.len() - 1) as u32,
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_parts_are_not_multiplied() {
        assert_eq!(on_line((2, 3.0), (6, 5.0), 64), 34.0);
        // All of it was tried.
        assert_eq!(on_line((2, 3.0), (6, 5.0), 6), 5.0);
        assert_eq!(on_line((1, 4.0), (1, 3.0), 1), 3.0);
        // More work never takes less time, whatever the clock says.
        assert_eq!(on_line((2, 3.0), (6, 2.5), 64), 2.5);
    }

    #[test]
    fn a_line_says_what_was_tried_and_what_was_not_measured() {
        let tried = "3 steps".to_string();
        let expected =
            Forecast { seconds: 723.0, peak_bytes: Some(3_100_000_000), tried, is_host: true };
        assert_eq!(
            expected.line(),
            "expected to take about 12 min 3 s and 3.1 GB of memory, from 3 steps tried here"
        );
        let on_gpu = Forecast { is_host: false, ..expected.clone() };
        assert!(on_gpu.line().contains("(the GPU's was not measured), from 3 steps"));
        assert_eq!([expected.peak_of(), on_gpu.peak_of()], ["all", "host"]);
        let unknown = Forecast { peak_bytes: None, ..expected };
        assert!(unknown.line().contains("about 12 min 3 s, from"), "{}", unknown.line());
    }

    #[test]
    fn work_is_stopped_once_enough_was_seen() {
        let mut nothing = ();
        let mut watch = Stopwatch::stopping(&mut nothing, 1, 2);
        watch.begin("first", 3);
        assert!((0..3).all(|_| watch.step("").is_ok()));
        watch.begin("second", 3);
        assert_eq!([watch.step("").is_ok(), watch.step("").is_ok()], [true, false]);
        assert!(watch.has_stopped());
        assert_eq!([0, 1, 2].map(|kind| watch.steps(kind).len()), [3, 2, 0]);
    }

    #[test]
    fn gaps_are_between_instants() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(mean_gap(&[at(1), at(2), at(9)]), Duration::from_secs(4));
        assert_eq!(mean_gap(&[at(1)]), Duration::ZERO);
    }
}
