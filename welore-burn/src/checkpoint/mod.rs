//! Hugging Face model directories: tensors on disk, their names, and safe ways to write them.
//!
//! [`Checkpoint`] reads (memory-mapped, single file or shards), [`ShardWriter`] writes,
//! [`OutputDir`] makes a directory appear whole or not at all, and [`load_module`] and
//! [`save_module`] move parameters between a checkpoint and any Burn module. This room
//! knows tensors and names, not LLaMA.
//!
//! A factored matrix `X` is stored as the published WeLore checkpoints store it:
//! `X.V.weight [rank, in]` and `X.U.weight [out, rank]`.

mod error;
mod layout;
mod module;
mod names;
mod output;
mod partial;
mod reader;
mod selection;
mod writer;

pub use error::{CheckpointError, TensorProblem};
pub(crate) use layout::{Layout, ShardFiles, TensorSpec};
pub use module::{check_module, load_module, save_module};
pub use names::{FactorNames, natural_order};
pub use output::{OutputDir, copy_companions, write_file};
pub(crate) use reader::not_finite;
pub use reader::{Checkpoint, TensorMeta};
pub use selection::{PROJECTIONS, PatternError, Selection};
pub use writer::{DEFAULT_SHARD_BYTES, ShardWriter, encode_floats};

/// Compressed model directories carry their plan under this name.
pub const PLAN_FILE: &str = "welore_plan.json";
