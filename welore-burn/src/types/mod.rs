//! Which type of llama.cpp every matrix of a model gets, within a budget of bytes or bits.
//!
//! [`measure_types`] quantizes each matrix in every type that it may have, and says what each is
//! expected to cost: `½ tr(G ΔW C ΔWᵀ)`, with the error `ΔW` of what is really stored, and the second
//! moments of inputs and of output gradients of a calibration. [`measure_alone`] measures what
//! embedding and head cost, which no calibration has, and [`measure_scale`] how much more the others
//! lose together than the sum of these estimates. [`TypePlan`] chooses the types, on the same
//! hulls as ranks are chosen on, and [`QuantizedSource`] gives a file its tensors. [`StoredModel`]
//! sees them on their way, so that [`measure_stored`] can say what the whole file really loses: the
//! estimate is the sum of what each matrix loses alone.
//!
//! [`measure_forms`] also weighs what llama.cpp does not have: blocks by columns, and two factors in
//! blocks. [`plan_forms`] chooses among all of these, for a model directory.

mod budget;
mod cache;
mod costs;
mod error;
mod form_costs;
mod form_plan;
mod llama_quantize;
mod rounding;
mod scale;
mod source;
mod stacks;
mod stored_model;
mod type_plan;

pub use budget::TypeBudget;
pub use costs::{
    CostOptions, TensorCosts, TypeCost, candidates, known_alone, measure_alone, measure_types,
    token_matrices,
};
pub use error::TypesError;
pub use form_costs::{
    FormCost, FormCosts, by_columns, least_bytes, measure_forms, measure_token_forms, norms,
};
pub use form_plan::{check_form_budget, plan_forms};
pub use llama_quantize::LlamaQuantize;
pub use rounding::{Inputs, Rounding};
pub use scale::{known_scale, measure_scale};
pub use source::QuantizedSource;
pub use stored_model::{StoredModel, measure_stored};
pub use type_plan::{TypeChoice, TypePlan, TypePlanError, TypePlanFileError};
