//! How long work tells how far it is, and how it is stopped.

/// The user asked for the work to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Told about long work as it goes; may stop it between two steps.
///
/// `()` implements it for callers that want neither. Work whose steps differ much in size, such
/// as decompositions, is told by [`begin_work`](Progress::begin_work) and
/// [`part`](Progress::part); who does not care about sizes sees it as plain steps.
pub trait Progress {
    /// Work of `total` steps begins.
    fn begin(&mut self, what: &str, total: usize);

    /// A step begins; `item` names what is worked on.
    ///
    /// # Errors
    ///
    /// [`Interrupted`] to stop the work before this step.
    fn step(&mut self, item: &str) -> Result<(), Interrupted>;

    /// Work goes on within a step.
    ///
    /// # Errors
    ///
    /// [`Interrupted`] to stop it there.
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
    /// [`Interrupted`] to stop the work; parts that are in hand are still finished and told.
    fn part(&mut self, part: Part<'_>) -> Result<(), Interrupted> {
        match part.steps {
            0 => Ok(()),
            _ => self.step(part.item),
        }
    }
}

/// A part of long work that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part<'a> {
    /// What was worked on.
    pub item: &'a str,
    /// How many of the steps it was; 0 for work beside them, such as copying.
    pub steps: usize,
    /// Its share of the floating point operations.
    pub operations: u64,
    /// Whether nothing had to be computed, because an earlier run had.
    pub known: bool,
}

impl Progress for () {
    fn begin(&mut self, _what: &str, _total: usize) {}

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        Ok(())
    }
}
