//! From spectra and a target to a [`RankPlan`]: which matrices are factored, at which rank.
//!
//! Pure: no tensor, no device, no file. A [`RankPolicy`] scores every rank of a matrix; the
//! solver removes the lowest scores over all matrices until the target is met.

mod plan_file;
mod policy;
mod solve;

pub use plan_file::{MatrixPlan, PlanFileError, PlanTotals, RankPlan};
pub use policy::{RankPolicy, Uniform, WeLore};
pub use solve::{PlanError, PlanOptions, make_plan};
