//! Carries out a [`RankPlan`](crate::plan::RankPlan), on a live Burn module or from one model
//! directory to another.
//!
//! A [`Compressor`] has three strategies. By default every matrix is factored independently, in
//! the given [`Norms`](crate::spectrum::Norms), as if all other matrices stayed dense. With
//! [`BlockwiseOptions`] the blocks of a language model are compressed one after the other, and the
//! matrices of a block in stages, in the order of their use: each for the inputs that it has once
//! the matrices used before it are compressed (sequential). The parts of a block can also be trained to reproduce the outputs of the dense block (refined). All
//! strategies respect the norms, the [`Budget`](crate::workers::Budget) and the type of each
//! matrix, and can resume interrupted work. [`convert_directory`] merges matrices again, and
//! stores a model in another type.
//!
//! [`shape_by_plan`] only shapes a module by a plan, for weights that were compressed before.

mod blocks;
mod check;
mod convert;
mod error;
mod expert_stack;
mod files;
mod job;
mod kept;
mod module;
mod options;
mod pieces;
mod refine;
mod replace;
mod report;
mod shape;
mod sink;
mod stages;
mod storage;

pub use check::{check_calibration, check_plan};
pub use convert::{
    Conversion, changes_tensors, convert_directory, converted_size, merge_adapter, merge_directory,
    merged_size,
};
pub use error::CompressError;
pub use kept::KeptMatrices;
pub use module::compress_module;
pub use options::{BlockwiseOptions, Compressor, RefineOptions, WriteOptions};
pub use report::{CompressReport, CompressedMatrix};
pub use shape::shape_by_plan;
