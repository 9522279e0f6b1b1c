//! How long work tells how far it is, and how it is stopped.

/// The user asked for the work to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Told about long work as it goes; may stop it between two steps.
///
/// `()` implements it for callers that want neither.
pub trait Progress {
    /// Work of `total` steps begins.
    fn begin(&mut self, what: &str, total: usize);

    /// A step begins; `item` names what is worked on.
    ///
    /// # Errors
    ///
    /// [`Interrupted`] to stop the work before this step.
    fn step(&mut self, item: &str) -> Result<(), Interrupted>;
}

impl Progress for () {
    fn begin(&mut self, _what: &str, _total: usize) {}

    fn step(&mut self, _item: &str) -> Result<(), Interrupted> {
        Ok(())
    }
}
