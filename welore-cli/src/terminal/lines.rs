//! Progress as lines on stderr, for logs and pipes, where no bar can be drawn.
//!
//! A command has one clock for all of its work, so that many short parts give no more lines than a
//! long one. A thread looks at it, so that a step of an hour is no hour of silence.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use welore_burn::progress::Part;

use crate::format;
use crate::output::is_quiet;

/// Time from the beginning of a command's work to its first line.
const FIRST: Duration = Duration::from_secs(10);

/// Time from one line to the next.
const EVERY: Duration = Duration::from_secs(30);

/// How often the clock is looked at.
const GLANCE: Duration = Duration::from_secs(1);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things, in the plural.
    Things(&'static str),
    /// Bytes of a transfer.
    Bytes,
}

impl Unit {
    /// Steps of any kind.
    pub const STEPS: Self = Self::Things("steps");

    /// Generated tokens.
    pub const TOKENS: Self = Self::Things("tokens");

    /// `12 of 64 steps`.
    fn count(self, done: u64, total: u64) -> String {
        match self {
            Self::Things(things) => format!("{done} of {total} {things}"),
            Self::Bytes => format!("{} of {}", format::bytes(done), format::bytes(total)),
        }
    }

    /// `1.5 steps/min`: in the largest unit of time that gives at least one.
    fn rate(self, per_second: f64) -> String {
        let (number, time) = match per_second {
            x if x >= 1.0 => (x, "s"),
            x if 60.0 * x >= 1.0 => (60.0 * x, "min"),
            x => (3600.0 * x, "h"),
        };
        match self {
            Self::Things(things) => format!("{number:.1} {things}/{time}"),
            Self::Bytes => format!("{}/s", format::bytes(per_second as u64)),
        }
    }
}

/// Work in progress.
#[derive(Debug)]
struct Work {
    what: String,
    unit: Unit,
    /// What it works on now.
    item: String,
    done: u64,
    total: u64,
    /// What was done when `started` was measured; an earlier command had done it.
    before: u64,
    started: Instant,
    /// Floating point operations, done since then and all, if steps differ in size.
    operations: Option<(u64, u64)>,
}

impl Work {
    fn new(what: &str, unit: Unit, total: u64, started: Instant) -> Self {
        let (what, item) = (what.into(), String::new());
        Self { what, unit, item, done: 0, total, before: 0, started, operations: None }
    }

    fn resume_at(&mut self, done: u64, now: Instant) {
        (self.done, self.before, self.started) = (done, done, now);
    }

    fn finish_part(&mut self, part: &Part<'_>) {
        let steps = part.steps as u64;
        self.done += steps;
        self.item = part.item.into();
        let Some((done, all)) = &mut self.operations else { return };
        if part.known {
            // Steps that cost nothing would make the rest look fast.
            self.before += steps;
            *all = all.saturating_sub(part.operations);
        } else {
            *done = done.saturating_add(part.operations);
        }
    }

    /// How far the work is, how fast it is, and how long it will take.
    fn line(&self, now: Instant) -> String {
        let seconds = now.saturating_duration_since(self.started).as_secs_f64();
        let counted = self.done.saturating_sub(self.before);
        let of_rest = (counted, self.total.saturating_sub(self.before));
        let (done, all) = self.operations.unwrap_or(of_rest);
        let share = match self.operations {
            Some((done, all)) if all > 0 => done as f64 / all as f64,
            _ => self.done as f64 / self.total.max(1) as f64,
        };
        let mut parts = vec![format!("{}: {} done", self.what, format::percent(share.min(1.0)))];
        if self.total > 0 {
            parts.push(self.unit.count(self.done, self.total));
        }
        if counted > 0 && seconds > 0.0 {
            parts.push(self.unit.rate(counted as f64 / seconds));
        }
        if done > 0 {
            let left = seconds * all.saturating_sub(done) as f64 / done as f64;
            parts.push(format!("about {} left", format::time(left)));
        }
        if !self.item.is_empty() {
            parts.push(self.item.clone());
        }
        parts.join(", ")
    }
}

/// The work of a command, and when its next line is due.
#[derive(Debug)]
struct Board {
    /// Innermost last: a training run evaluates in between.
    works: Vec<(u64, Work)>,
    begun: u64,
    due: Option<Instant>,
}

impl Board {
    const fn new() -> Self {
        Self { works: Vec::new(), begun: 0, due: None }
    }

    /// Adds work, and returns its number.
    fn begin(&mut self, work: Work) -> u64 {
        self.due.get_or_insert(work.started + FIRST);
        self.begun += 1;
        self.works.push((self.begun, work));
        self.begun
    }

    fn find(&mut self, number: u64) -> Option<&mut Work> {
        self.works.iter_mut().find(|(other, _)| *other == number).map(|(_, work)| work)
    }

    fn end(&mut self, number: u64) {
        self.works.retain(|(other, _)| *other != number);
    }

    /// The line on the innermost work, if one is due.
    fn line(&mut self, now: Instant) -> Option<String> {
        let (_, work) = self.works.last()?;
        if now < self.due? {
            return None;
        }
        let line = work.line(now);
        self.due = Some(now + EVERY);
        Some(line)
    }
}

static BOARD: Mutex<Board> = Mutex::new(Board::new());

fn board() -> MutexGuard<'static, Board> {
    BOARD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread that prints lines, unless it runs.
fn watch() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        // Without it only the lines are missing.
        let _ = thread::Builder::new().name("progress".into()).spawn(print_lines);
    });
}

fn print_lines() {
    loop {
        thread::sleep(GLANCE);
        // Held while it prints, so that no line follows the end of its work.
        let mut board = board();
        if let Some(line) = board.line(Instant::now()) {
            tell!("{line}");
        }
    }
}

/// Work whose progress becomes a line now and then, unless stderr is a terminal, where bars are
/// drawn, or `--quiet` is given. The default is no work.
#[derive(Debug, Default)]
pub struct Task(Option<u64>);

impl Task {
    /// Begins work of `total` bytes or things.
    pub fn begin(what: &str, unit: Unit, total: u64) -> Self {
        if is_quiet() || std::io::stderr().is_terminal() {
            return Self(None);
        }
        watch();
        Self(Some(board().begin(Work::new(what, unit, total, Instant::now()))))
    }

    /// It is counted in this unit.
    pub fn count_in(&self, unit: Unit) {
        self.change(|work| work.unit = unit);
    }

    /// Its steps differ in size, and have this many floating point operations together.
    pub fn measure_in(&self, operations: u64) {
        self.change(|work| work.operations = Some((0, operations)));
    }

    /// `done` is what an earlier command had done.
    pub fn resume_at(&self, done: u64) {
        self.change(|work| work.resume_at(done, Instant::now()));
    }

    /// `done` of it is done.
    pub fn at(&self, done: u64) {
        self.change(|work| work.done = done);
    }

    /// One more is done.
    pub fn step(&self) {
        self.change(|work| work.done += 1);
    }

    /// It goes on with an item.
    pub fn on(&self, item: &str) {
        self.change(|work| work.item = item.into());
    }

    /// A part of it is done.
    pub fn part(&self, part: &Part<'_>) {
        self.change(|work| work.finish_part(part));
    }

    /// Ends it: no line follows.
    pub fn end(&mut self) {
        if let Some(number) = self.0.take() {
            board().end(number);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Work)) {
        let Some(number) = self.0 else { return };
        if let Some(work) = board().find(number) {
            change(work);
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(what: &str, total: u64, started: Instant) -> Work {
        Work::new(what, Unit::STEPS, total, started)
    }

    fn after(started: Instant, seconds: u64) -> Instant {
        started + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_line_comes_after_10_seconds_and_then_one_every_30() {
        let (start, mut board) = (Instant::now(), Board::new());
        let first = board.begin(steps("loading", 3, start));
        let due = |board: &mut Board, from: u64| -> Vec<u64> {
            (from..from + 50).filter(|s| board.line(after(start, *s)).is_some()).collect()
        };
        assert_eq!(due(&mut board, 0), [10, 40]);
        // The next work of the same command does not start from the beginning.
        board.end(first);
        assert_eq!(board.line(after(start, 200)), None);
        board.begin(steps("perplexity", 3, after(start, 51)));
        assert_eq!(due(&mut board, 52), [70, 100]);
    }

    #[test]
    fn the_innermost_work_is_told() {
        let (start, mut board) = (Instant::now(), Board::new());
        let outer = board.begin(steps("training", 60, start));
        let inner = board.begin(steps("perplexity", 8, start));
        board.find(inner).unwrap().done = 2;
        board.find(outer).unwrap().done = 6;
        let line = board.line(after(start, 60)).unwrap();
        assert!(line.starts_with("perplexity: 25.0% done, 2 of 8 steps"), "{line}");
        board.end(inner);
        let line = board.line(after(start, 120)).unwrap();
        assert!(line.starts_with("training: 10.0% done, 6 of 60 steps"), "{line}");
    }

    #[test]
    fn a_line_says_the_share_the_rate_and_the_time_left() {
        let start = Instant::now();
        let mut work = steps("calibrating", 64, start);
        assert_eq!(work.line(after(start, 10)), "calibrating: 0.0% done, 0 of 64 steps");
        work.done = 16;
        work.item = "block 5, inputs".into();
        assert_eq!(
            work.line(after(start, 40)),
            "calibrating: 25.0% done, 16 of 64 steps, 24.0 steps/min, about 2 min 0 s left, \
             block 5, inputs"
        );
        let rates = [12.0, 0.5, 0.01].map(|rate| Unit::TOKENS.rate(rate));
        assert_eq!(rates, ["12.0 tokens/s", "30.0 tokens/min", "36.0 tokens/h"]);
    }

    #[test]
    fn a_line_says_what_is_counted() {
        let start = Instant::now();
        let mut work = steps("perplexity", 64, start);
        (work.unit, work.done) = (Unit::Things("windows"), 16);
        let line = work.line(after(start, 4));
        assert_eq!(
            line,
            "perplexity: 25.0% done, 16 of 64 windows, 4.0 windows/s, about 12.0 s left"
        );
    }

    #[test]
    fn what_an_earlier_command_did_does_not_make_the_rest_look_fast() {
        let start = Instant::now();
        let mut fetched = Work::new("fetching", Unit::Bytes, 4_000_000, start);
        fetched.resume_at(2_000_000, after(start, 5));
        fetched.done = 3_000_000;
        assert_eq!(
            fetched.line(after(start, 15)),
            "fetching: 75.0% done, 3.0 MB of 4.0 MB, 100.0 kB/s, about 10.0 s left"
        );

        // Large matrices take longer, and one of the three was factored before.
        let mut work = steps("factoring", 3, start);
        work.operations = Some((0, 1000));
        let part = |item, operations, known| Part { item, steps: 1, operations, known };
        work.finish_part(&part("a", 600, true));
        work.finish_part(&part("b", 100, false));
        assert_eq!(
            work.line(after(start, 20)),
            "factoring: 25.0% done, 2 of 3 steps, 3.0 steps/min, about 60.0 s left, b"
        );
    }
}
