//! Files that appear whole or not at all, and files that are read in place.
//!
//! [`write_file`] replaces a file in one step, [`OutputDir`] a whole directory. A
//! [`resumable`](OutputDir::resumable) directory can outlive the process that writes it, and has a
//! journal of finished parts. [`MappedFile`] reads without copying, [`read_file`] reads files of
//! bounded size and nothing else. This room knows neither tensors nor models.
//!
//! Nothing is replaced but files, empty directories, and models with nothing else in their
//! directories. What a killed process leaves behind has the name of its target in its own, and is
//! removed by the next one with that target; finished parts only by one that does its work.

mod claim;
mod deliver;
mod error;
mod exchange;
mod journal;
mod lock;
mod mapped;
mod model_dir;
mod output;
mod partial;
mod place;
mod read;
mod staged;
mod temporary;
mod write;

pub use claim::FileClaim;
pub use error::FileError;
pub(crate) use journal::Journal;
pub use mapped::MappedFile;
pub use model_dir::check_beside_models;
pub use output::OutputDir;
pub use place::{is_within, replaced_file};
pub(crate) use read::check_fetched;
pub use read::{
    LARGEST_ARTIFACT, LARGEST_COMPANION, LARGEST_CONFIG, LARGEST_INDEX, LARGEST_PLAN, LARGEST_TEXT,
    check_input, read_existing, read_file, read_input,
};
pub(crate) use staged::StagedFile;
pub use staged::{check_staged, unfinished};
pub use temporary::{is_left_of, is_temporary};
pub(crate) use write::sync_dir;
pub use write::{check_writable, replace_file, write_file};
