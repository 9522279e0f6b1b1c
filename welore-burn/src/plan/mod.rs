//! From spectra and a target to a [`RankPlan`]: which form and which rank every matrix gets.
//!
//! Pure but for [`read_plan`]: no tensor and no device. A [`RankPolicy`] says what ranks are worth;
//! [`RankProblem`] has the two ways to allocate them: removing the lowest scores over all
//! matrices, or the least sum of losses for a budget.

mod plan_file;
mod policy;
mod problem;
mod solve;
mod target;

pub use plan_file::{MatrixPlan, PlanFileError, PlanTotals, RankPlan, ReadPlanError, read_plan};
pub use policy::{Energy, Loss, Probed, RankPolicy, Uniform, WeLore};
pub use problem::{Allocation, Choice, RankProblem};
pub use solve::make_plan;
pub use target::{PlanError, PlanOptions, Target};
