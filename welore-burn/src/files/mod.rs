//! Files that appear whole or not at all, and files that are read in place.
//!
//! [`write_file`] replaces a file in one step, [`OutputDir`] a whole directory. A
//! [`resumable`](OutputDir::resumable) directory can outlive the process that writes it, and has a
//! journal of finished parts. [`MappedFile`] reads without copying, [`read_file`] reads files of
//! bounded size and nothing else. This room knows neither tensors nor models.

mod error;
mod mapped;
mod output;
mod partial;
mod read;
mod write;

pub use error::FileError;
pub use mapped::MappedFile;
pub use output::OutputDir;
pub(crate) use partial::Journal;
pub use read::{
    LARGEST_ARTIFACT, LARGEST_COMPANION, LARGEST_CONFIG, LARGEST_INDEX, LARGEST_PLAN, LARGEST_TEXT,
    check_file, read_existing, read_file, read_input,
};
pub use write::write_file;
pub(crate) use write::{parent_of, sync_dir};
