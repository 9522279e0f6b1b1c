//! Policies that need the model, and what a search adds to a plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::policy::{PolicyReads, RankPolicy, relative_tails, tails};
use super::problem::{Allocation, RankProblem};
use super::target::PlanError;
use crate::modules::MatrixName;
use crate::spectrum::SpectrumUnit;

/// What a search varies. What the matrices of a group keep is decided with one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SearchSpace {
    /// Multipliers of the losses of matrices, one for each kind of matrix, and a slope over the
    /// depth of the model. All ones give the plan of [`Loss`](super::Loss), or of
    /// [`Energy`](super::Energy) for spectra that are not in units of the loss.
    Losses,
    /// Shares of ranks: one for queries and keys, one for gate and up, and one for each other kind.
    Ratios,
}

/// The multipliers of the losses of each kind of matrix, and their slope over depth, with which the
/// predictions of the model stay the closest to the dense one's. [`search`](fn@crate::search::search)
/// finds them by evolution.
#[derive(Debug, Clone, Copy, Default)]
pub struct Searched;

impl RankPolicy for Searched {
    fn name(&self) -> &'static str {
        "searched"
    }

    fn about(&self) -> &'static str {
        "as loss or energy, but each kind of matrix and the depth count as much as a search on the \
         model finds best (`plan` only)"
    }

    fn reads(&self) -> PolicyReads {
        PolicyReads { searches: Some(SearchSpace::Losses), ..PolicyReads::default() }
    }

    fn allocate(&self, _problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        Err(PlanError::NotSearched { policy: self.name() })
    }
}

/// The shares of ranks of five groups of matrices (q and k, v, o, gate and up, down), as in Bolaco
/// (arXiv 2405.10616), with which the predictions of the model stay the closest to the dense one's.
/// [`search`](fn@crate::search::search) finds them by Bayesian optimisation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bolaco;

impl RankPolicy for Bolaco {
    fn name(&self) -> &'static str {
        "bolaco"
    }

    fn about(&self) -> &'static str {
        "one share of ranks for each of five groups of matrices, found by Bayesian optimisation on \
         the model (`plan` only)"
    }

    fn reads(&self) -> PolicyReads {
        PolicyReads { searches: Some(SearchSpace::Ratios), ..PolicyReads::default() }
    }

    fn allocate(&self, _problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        Err(PlanError::NotSearched { policy: self.name() })
    }
}

/// A policy that searches, with the weights of matrices that it tries.
#[derive(Debug)]
pub(crate) struct Weighed<'a> {
    /// The name of the policy.
    pub name: &'static str,
    /// What the weights are.
    pub space: SearchSpace,
    /// Of every matrix, above 0.
    pub weights: &'a BTreeMap<MatrixName, f64>,
}

impl RankPolicy for Weighed<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        let weight = |name: &MatrixName| self.weights.get(name).copied().unwrap_or(1.0);
        match self.space {
            SearchSpace::Ratios => problem.by_ratio(|spectrum| weight(&spectrum.name)),
            SearchSpace::Losses => problem.least_loss(|spectrum| {
                let losses = match problem.spectra.unit {
                    SpectrumUnit::Loss => tails(spectrum),
                    SpectrumUnit::Weights | SpectrumUnit::Inputs => relative_tails(spectrum),
                };
                let weight = weight(&spectrum.name);
                losses.into_iter().map(|loss| loss * weight).collect()
            }),
        }
    }
}

/// How the ranks of a plan were searched for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchRecord {
    /// Number of plans that were measured.
    pub evaluations: usize,
    /// Random seed.
    pub seed: u64,
    /// Number of windows of text, and of tokens in each, on which they were measured.
    pub windows: [usize; 2],
    /// What the losses or the shares of ranks of each group of matrices were multiplied by.
    pub multipliers: BTreeMap<String, f64>,
    /// Natural logarithm of what they were also multiplied by in the last block, and divided by in
    /// the first; between them it changes evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slope: Option<f64>,
    /// Mean KL divergence from the dense model, in nats per token, with all multipliers at one.
    pub start_kl: f64,
    /// The same with these multipliers.
    pub kl: f64,
}
