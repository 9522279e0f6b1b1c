//! From spectra and a target to a [`RankPlan`]: the form and the rank of every matrix.
//!
//! Pure except for [`read_plan`]: no tensors and no devices. A [`RankPolicy`] scores ranks;
//! [`RankProblem`] has the ways to allocate them: removing the lowest scores over all matrices,
//! minimizing the sum of losses within a budget, or the same share of ranks times a weight.

mod candidate;
mod cost;
mod frontier;
mod limits;
mod lorap;
mod matrix_plan;
mod plan_file;
mod policy;
mod probed;
mod problem;
mod prospect;
mod searched;
mod solve;
mod table;
mod target;

pub use candidate::Candidate;
pub use cost::ExpectedSpeed;
pub use frontier::{Descent, Point, descend, least_loss, lower_hull, point_at};
pub use limits::Constraint;
pub use lorap::Lorap;
pub use matrix_plan::MatrixPlan;
pub use plan_file::{PlanFileError, PlanTotals, RankPlan, ReadPlanError, read_plan};
pub(crate) use policy::tails;
pub use policy::{Energy, Loss, PolicyReads, RankPolicy, Uniform, WeLore};
pub use probed::Probed;
pub use problem::{Allocation, Choice, RankProblem};
pub use prospect::Prospect;
pub(crate) use searched::Weighed;
pub use searched::{Bolaco, SearchRecord, SearchSpace, Searched};
pub use solve::make_plan;
pub use table::{PlanColumn, PlanTable};
pub use target::{PlanError, PlanOptions, Target};
