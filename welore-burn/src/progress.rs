//! How long-running work reports its progress, how it is stopped, and how it learns that its
//! results are worth nothing.

use std::sync::OnceLock;

/// The user asked for the work to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// A thread failed on which results depend, so they are not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not written: a thread failed that it depends on")]
pub struct Unsound;

static DOUBT: OnceLock<fn() -> bool> = OnceLock::new();

/// Sets what is asked before anything is written: whether results may be wrong. From then on,
/// files, directories and checkpoints are refused instead of getting their names.
///
/// GPU backends of Burn 0.22.1 catch the panics of their threads, log them, and go on with
/// whatever is in memory. A program whose panic hook notices that can say so here. Only the first
/// call has an effect.
pub fn doubt_if(spoiled: fn() -> bool) {
    let _ = DOUBT.set(spoiled);
}

/// Checks that results can be used.
///
/// # Errors
///
/// [`Unsound`] if what [`doubt_if`] set says so.
pub fn check_sound() -> Result<(), Unsound> {
    match DOUBT.get() {
        Some(spoiled) if spoiled() => Err(Unsound),
        _ => Ok(()),
    }
}

/// Receives the progress of long-running work, and may stop it between two steps.
///
/// `()` implements it for callers that need neither. Work whose steps differ much in size, such
/// as decompositions, reports through [`begin_work`](Progress::begin_work) and
/// [`part`](Progress::part). By default these fall back to plain steps.
pub trait Progress {
    /// Work of `total` steps begins.
    fn begin(&mut self, what: &str, total: usize);

    /// Says what the steps of the work that began last are, in the plural, such as `windows`.
    fn count_in(&mut self, unit: &'static str) {
        let _ = unit;
    }

    /// A step begins; `item` names what it works on.
    ///
    /// # Errors
    ///
    /// [`Interrupted`] to stop the work before this step.
    fn step(&mut self, item: &str) -> Result<(), Interrupted>;

    /// Work continues within a step.
    ///
    /// # Errors
    ///
    /// [`Interrupted`] to stop the work within this step.
    fn check(&mut self) -> Result<(), Interrupted> {
        Ok(())
    }

    /// Work begins that takes about `operations` floating point operations in `total` steps.
    fn begin_work(&mut self, what: &str, total: usize, operations: u64) {
        let _ = operations;
        self.begin(what, total);
    }

    /// A part of the work is done. Parts come in any order.
    ///
    /// # Errors
    ///
    /// [`Interrupted`] to stop the work; parts in progress are still finished and reported.
    fn part(&mut self, part: Part<'_>) -> Result<(), Interrupted> {
        match part.steps {
            0 => Ok(()),
            _ => self.step(part.item),
        }
    }
}

/// A finished part of long-running work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// What was worked on.
    pub item: &'a str,
    /// How many steps it counts as; 0 for other work, such as copying.
    pub steps: usize,
    /// Its share of the floating point operations.
    pub operations: u64,
    /// Whether nothing had to be computed, because an earlier run had done it.
    pub known: bool,
}

impl Progress for () {
    fn begin(&mut self, _what: &str, _total: usize) {}

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        Ok(())
    }
}
