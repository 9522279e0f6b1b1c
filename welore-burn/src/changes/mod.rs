//! What training changed in a model directory, saved without the rest of it.
//!
//! [`Changes`] finds the tensors whose numbers differ between a tuned directory and its base, and writes
//! them into a small directory. It writes the new numbers, not differences, because
//! `base + (tuned - base)` is not always `tuned` in the type that both are stored in. [`SavedChanges`]
//! reads such a directory and puts its numbers in the place of the base's. A digest of each tensor of the
//! base is stored too, so changes are refused on any other model.

mod error;
mod find;
mod record;
mod saved;

pub use error::ChangesError;
pub use find::Changes;
pub use saved::{SavedChanges, are_changes};
