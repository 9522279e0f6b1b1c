//! Carries out a [`RankPlan`](crate::plan::RankPlan): on a live Burn module
//! ([`apply_plan`]), or from one checkpoint to another without loading the model
//! ([`factor_checkpoint`], [`merge_checkpoint`]).

mod files;
mod module;

pub use files::{FilesError, check_plan, factor_checkpoint, merge_checkpoint};
pub use module::{FactoredMatrix, SurgeryError, SurgeryReport, apply_plan};
