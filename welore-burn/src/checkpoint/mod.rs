//! Reading and writing the tensors of Hugging Face model directories.
//!
//! [`Checkpoint`] reads one file or shards, [`ShardWriter`] writes them, and [`load_module`] and
//! [`save_module`] move parameters between a checkpoint and any Burn module. A matrix is stored in
//! the tensors of its [form](crate::forms), which [`StoredMatrix`] lists. This room knows tensors
//! and their names, but no model family.

mod companions;
mod convolutions;
mod error;
mod file_shapes;
mod foreign;
mod gathered;
mod interleaved;
mod linear_layers;
mod module;
mod mxfp4;
mod open;
mod reader;
mod remark;
mod remote_code;
mod replaced;
mod scaled;
mod shards;
mod stacks;
mod stored;
mod tensor_meta;
mod turned;

pub use companions::{check_companions, copy_companions};
pub use error::{CheckpointError, MissingKind, TensorProblem};
pub(crate) use file_shapes::FileShapes;
pub use foreign::Quantizer;
pub(crate) use linear_layers::is_norm;
pub use linear_layers::{LinearLayers, NotLinear};
pub use module::{as_stored, check_module, load_module, save_module};
pub(crate) use module::{load_weights, with_forms};
pub(crate) use open::check_directory;
pub use reader::Checkpoint;
pub(crate) use reader::not_finite;
pub use remark::Remark;
pub use remote_code::{CODE_FILE, passes_for_dense, state_compressed};
pub(crate) use remote_code::{base_config, lost_base, restore_base};
pub(crate) use scaled::{forget_scales, has_scales};
pub use shards::{DEFAULT_SHARD_BYTES, ShardLayout, ShardWriter};
pub use stored::{PLAN_FILE, StoredMatrix};
pub use tensor_meta::TensorMeta;
pub(crate) use turned::Turned;
