//! Files that appear whole or not at all, and files that are read in place.
//!
//! [`write_file`] replaces a file in one step, [`OutputDir`] a whole directory. A
//! [`resumable`](OutputDir::resumable) directory can outlive the process that writes it, and has a
//! journal of finished parts. [`MappedFile`] reads without copying. This room knows neither
//! tensors nor models.
//!
//! Nothing is replaced but files, empty directories and models. What a killed process leaves behind
//! has the name of its target in its own, and is removed by the next one with that target.

mod error;
mod exchange;
mod mapped;
mod output;
mod partial;
mod place;
mod staged;
mod temporary;
mod write;

pub use error::FileError;
pub use mapped::MappedFile;
pub use output::OutputDir;
pub(crate) use partial::Journal;
pub(crate) use staged::StagedFile;
pub use temporary::is_temporary;
pub(crate) use write::sync_dir;
pub use write::{check_file, check_no_input, replace_file, write_file};
