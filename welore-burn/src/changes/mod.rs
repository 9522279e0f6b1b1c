//! What training changed in a model directory, saved without the rest of it.
//!
//! [`Changes`] finds the tensors that a tuned directory has otherwise than its base, and writes them into
//! a small directory: those numbers as they are, not differences, since `base + (tuned - base)` is not
//! always `tuned` in the type that both are stored in. [`SavedChanges`] reads such a directory, and puts
//! its numbers in the place of the base's. It knows the base by a digest of each of its tensors, so it is
//! refused on any other.

mod error;
mod find;
mod record;
mod saved;

pub use error::ChangesError;
pub use find::Changes;
pub use saved::{SavedChanges, are_changes};
