//! Carries out a [`RankPlan`](crate::plan::RankPlan), on a live Burn module or from one model
//! directory to another.
//!
//! One [`Compressor`] has three strategies. By default every matrix is factored by itself: in the
//! [`Norms`](crate::spectrum::Norms) that it is given, as if all others stayed as they are. With
//! [`BlockwiseOptions`] the blocks of a language model are compressed one after the other: each
//! matrix for the inputs that it has once all before it are compressed (sequential), and the parts
//! of a block may be trained to answer as the dense one does (refined). All of them respect the
//! norms, the [`Budget`](crate::workers::Budget), the type of each matrix, and go on where an
//! earlier process was stopped. [`merge_directory`] makes a dense directory again.

mod blocks;
mod check;
mod error;
mod files;
mod job;
mod merge;
mod module;
mod options;
mod pieces;
mod refine;
mod report;

pub use check::{check_calibration, check_plan};
pub use error::CompressError;
pub use merge::{merge_directory, merged_size};
pub use module::compress_module;
pub use options::{BlockwiseOptions, Compressor, RefineOptions, WriteOptions};
pub use report::{CompressReport, CompressedMatrix};
