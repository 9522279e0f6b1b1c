//! What one call into the tokenizers crate may use, and what ends it early.

use std::any::Any;
use std::cell::Cell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::escape::shortened;

/// How many times its own length a text may grow by.
const GROWTH: usize = 8;

/// Bytes that even the shortest text may grow by.
const LEAST_GROWTH: usize = 64 << 10;

/// Working time of a call, which normally handles some megabytes a second.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_PER_BYTE: Duration = Duration::from_micros(20);

/// What counts at most between two looks at the clock: a process that was stopped and continued
/// did not work in between.
const LONGEST_STEP: Duration = Duration::from_secs(5);

/// Steps from one look at the clock to the next.
const STEPS_PER_LOOK: u32 = 16;

/// Why work was ended.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Stopped(pub String);

impl Stopped {
    /// The text grows too much.
    pub fn too_long() -> Self {
        Self("it makes the text many times longer".into())
    }
}

/// What is left for the call that this thread is in.
#[derive(Debug, Clone, Copy)]
struct Budget {
    /// Bytes that the text may still grow by.
    spare: usize,
    steps: u32,
    last_look: Instant,
    spent: Duration,
    patience: Duration,
}

impl Budget {
    fn of(bytes: usize) -> Self {
        let bytes_in_time = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            spare: most_growth(bytes),
            steps: 0,
            last_look: Instant::now(),
            spent: Duration::ZERO,
            patience: PATIENCE.saturating_add(PATIENCE_PER_BYTE.saturating_mul(bytes_in_time)),
        }
    }

    fn step(&mut self) -> Result<(), Stopped> {
        self.steps = self.steps.wrapping_add(1);
        if !self.steps.is_multiple_of(STEPS_PER_LOOK) {
            return Ok(());
        }
        let now = Instant::now();
        self.spent += now.duration_since(self.last_look).min(LONGEST_STEP);
        self.last_look = now;
        if self.spent > self.patience {
            return Err(Stopped("it takes far too long".into()));
        }
        Ok(())
    }
}

thread_local! {
    static BUDGET: Cell<Option<Budget>> = const { Cell::new(None) };
}

fn with_budget<T>(work: impl FnOnce(&mut Budget) -> T) -> T {
    let mut budget = BUDGET.get().unwrap_or_else(|| Budget::of(0));
    let result = work(&mut budget);
    BUDGET.set(Some(budget));
    result
}

/// Bytes that a text of so many bytes may grow by.
pub(super) fn most_growth(bytes: usize) -> usize {
    bytes.saturating_mul(GROWTH).saturating_add(LEAST_GROWTH)
}

/// Counts a step of work, and looks at the clock now and then.
pub(super) fn step() -> Result<(), Stopped> {
    with_budget(Budget::step)
}

/// Bytes that the text of the call may still grow by.
pub(super) fn spare() -> usize {
    with_budget(|budget| budget.spare)
}

/// Takes from what the text may still grow by.
pub(super) fn spend(bytes: usize) {
    with_budget(|budget| budget.spare = budget.spare.saturating_sub(bytes));
}

/// Runs a call on a text of so many bytes.
///
/// # Errors
///
/// Why the call was ended, or the panic of the tokenizers crate.
pub(super) fn bounded<T>(bytes: usize, work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = BUDGET.replace(Some(Budget::of(bytes)));
    let result = catch_unwind(AssertUnwindSafe(work));
    BUDGET.set(outer);
    result.map_err(|panic| reason(panic.as_ref()))
}

/// Whether a call into the tokenizers crate is in progress on this thread. A panic in it becomes an
/// error.
pub fn is_guarded() -> bool {
    let budget = BUDGET.take();
    let is_guarded = budget.is_some();
    BUDGET.set(budget);
    is_guarded
}

/// The same for a call that may fail.
///
/// # Errors
///
/// Also the call's own error, in one short line.
pub(in crate::data) fn guarded<T, E: Display>(
    bytes: usize,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    bounded(bytes, work)?.map_err(|error| short(&error.to_string()))
}

fn reason(panic: &(dyn Any + Send)) -> String {
    if let Some(stopped) = panic.downcast_ref::<Stopped>() {
        return stopped.to_string();
    }
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("unknown");
    format!("the tokenizers crate failed ({})", short(text))
}

/// A text of unknown origin as part of one line.
pub(super) fn short(text: &str) -> String {
    const LONGEST: usize = 160;
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    shortened(text, LONGEST).chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use std::panic::resume_unwind;

    use super::*;

    #[test]
    fn panics_and_early_ends_are_errors_of_one_line() {
        let panicking =
            guarded(0, || -> Result<(), String> { panic!("index\n{}", "9".repeat(999)) });
        let message = panicking.unwrap_err();
        assert!(message.contains("index 999") && message.len() < 300, "{message}");
        let stopping =
            guarded(0, || -> Result<(), String> { resume_unwind(Box::new(Stopped::too_long())) });
        assert_eq!(stopping.unwrap_err(), Stopped::too_long().to_string());
    }

    #[test]
    fn patience_ends() {
        let mut budget = Budget::of(0);
        budget.patience = Duration::ZERO;
        let outcome = (0..STEPS_PER_LOOK).try_for_each(|_| {
            std::thread::sleep(Duration::from_millis(1));
            budget.step()
        });
        assert!(outcome.is_err());
    }

    #[test]
    fn growth_is_counted_over_a_whole_call() {
        let spent = bounded(10, || {
            let before = spare();
            spend(5);
            before - spare()
        });
        assert_eq!(spent, Ok(5));
    }
}
