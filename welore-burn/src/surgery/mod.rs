//! Carries out a [`RankPlan`](crate::plan::RankPlan): on a live Burn module
//! ([`apply_plan`]), or from one checkpoint to another without loading the model
//! ([`compress_directory`], [`merge_directory`]).

mod factoring;
mod files;
mod module;
mod pieces;
mod stream;

pub(crate) use factoring::{Factored, factor_in};
pub use files::{
    FilesError, WriteSettings, check_calibration, check_plan, compress_directory, merge_directory,
    merged_size,
};
pub(crate) use module::factor_params;
pub use module::{FactoredMatrix, SurgeryError, SurgeryReport, apply_plan, apply_plan_in};
