//! From spectra and a target to a [`RankPlan`]: which matrices are factored, at which rank.
//!
//! Pure: no tensor, no device, no file. A [`RankPolicy`] says what ranks are worth;
//! [`RankProblem`] has the two ways to allocate them: removing the lowest scores over all
//! matrices, or the least sum of losses for a budget.

mod plan_file;
mod policy;
mod problem;
mod solve;
mod target;

pub use plan_file::{MatrixPlan, PlanFileError, PlanTotals, RankPlan};
pub use policy::{Energy, Loss, Probed, RankPolicy, Uniform, WeLore};
pub use problem::{Allocation, Choice, RankProblem};
pub use solve::make_plan;
pub use target::{PlanError, PlanOptions, Storage, Target};
