use super::policy::RankPolicy;
use super::problem::{Allocation, RankProblem};
use super::target::PlanError;
use crate::model::is_attention_output;
use crate::modules::MatrixName;

/// The shares of LoRAP (arXiv 2404.09695): values and outputs of attention keep three times the
/// share of ranks that queries and keys keep, as their spectra fall more slowly. The matrices of the
/// MLP, and all others, keep the share between: the mean of the four if they are equally large.
///
/// Only the ranks of LoRAP are here. It factors nothing in the MLP but removes channels, and its
/// factors are best for inputs scaled by their norms: an importance matrix with the method
/// `whitened`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lorap;

/// How many times the ranks of queries and keys the values and outputs keep.
const MORE: f64 = 3.0;

impl RankPolicy for Lorap {
    fn name(&self) -> &'static str {
        "lorap"
    }

    fn about(&self) -> &'static str {
        "fixed shares of ranks, those of v and o three times those of q and k; where LoRAP removes \
         channels of the MLP, this gives its matrices an equal share of ranks"
    }

    fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        problem.by_ratio(|spectrum| weight(&spectrum.name))
    }
}

fn weight(name: &MatrixName) -> f64 {
    let least = 2.0 / (1.0 + MORE);
    match name.kind() {
        "q_proj" | "k_proj" => least,
        "v_proj" | "o_proj" => MORE * least,
        // Where it has another name.
        _ if is_attention_output(name.as_str()) => MORE * least,
        // One matrix for all of q, k and v is between them.
        _ => 1.0,
    }
}
