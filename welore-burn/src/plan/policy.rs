use super::lorap::Lorap;
use super::probed::Probed;
use super::problem::{Allocation, RankProblem};
use super::searched::{Bolaco, SearchSpace, Searched};
use super::target::PlanError;
use crate::named::Named;
use crate::spectrum::{MatrixSpectrum, SpectrumUnit};

/// Decides which matrices are factored, and at which rank. A policy scores ranks, or gives their
/// losses, and leaves the rest to one of the methods of [`RankProblem`].
pub trait RankPolicy: std::fmt::Debug + Sync {
    /// The name written into the plan.
    fn name(&self) -> &'static str;

    /// One line of help on what it does.
    fn about(&self) -> &'static str {
        ""
    }

    /// What it needs and reads, apart from singular values.
    fn reads(&self) -> PolicyReads {
        PolicyReads::default()
    }

    /// Ranks and forms that meet the target. The spectra have what [`reads`](RankPolicy::reads)
    /// says.
    ///
    /// # Errors
    ///
    /// [`PlanError::OutOfReach`] if there are none.
    fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError>;
}

/// What a policy needs and reads, apart from singular values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PolicyReads {
    /// The unit that the spectra must have; `None` for any.
    pub unit: Option<SpectrumUnit>,
    /// Whether it reads probes. Spectra without any are refused; in models with experts, single
    /// matrices may lack one, such as those of experts that see none of the probes' text.
    pub probes: bool,
    /// Whether [`PlanOptions::min_ratio`](super::PlanOptions::min_ratio) decides which matrices
    /// stay dense, as it does with [`RankProblem::remove_lowest`]. The command line refuses the
    /// option for policies that do not say so.
    pub min_ratio: bool,
    /// What it varies, if it measures plans on the model itself. Then it allocates nothing from
    /// spectra alone: [`make_plan`](super::make_plan) refuses it, and
    /// [`search`](fn@crate::search::search) carries it out.
    pub searches: Option<SearchSpace>,
}

impl PolicyReads {
    const MIN_RATIO: Self = Self { unit: None, probes: false, min_ratio: true, searches: None };
    const LOSS: Self =
        Self { unit: Some(SpectrumUnit::Loss), probes: false, min_ratio: false, searches: None };
}

/// The policies that the command line offers by name. Register a new one here.
static POLICIES: [&dyn RankPolicy; 8] =
    [&WeLore, &Uniform, &Lorap, &Energy, &Loss, &Probed, &Searched, &Bolaco];

impl Named for &'static dyn RankPolicy {
    fn all() -> &'static [Self] {
        &POLICIES
    }

    fn name(&self) -> &'static str {
        RankPolicy::name(*self)
    }

    fn about(&self) -> &'static str {
        RankPolicy::about(*self)
    }
}

/// The paper's policy: min-max normalized singular values, `(s - min) / (max - min)` for each
/// matrix, cut at one threshold for the whole model (WeLore, arXiv 2407.11239, section 3.2).
///
/// A matrix whose singular values are all equal has no tail: all its ranks score 1.
#[derive(Debug, Clone, Copy, Default)]
pub struct WeLore;

impl RankPolicy for WeLore {
    fn name(&self) -> &'static str {
        "welore"
    }

    fn about(&self) -> &'static str {
        "one threshold on min-max normalized singular values, for the whole model"
    }

    fn reads(&self) -> PolicyReads {
        PolicyReads::MIN_RATIO
    }

    fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        problem.remove_lowest(|spectrum| {
            let values = &spectrum.singular_values;
            let (max, min) = (values[0], values[values.len() - 1]);
            if max == min {
                return vec![1.0; values.len()];
            }
            values.iter().map(|s| (s - min) / (max - min)).collect()
        })
    }
}

/// The baseline: every matrix loses the same share of its ranks, whatever its spectrum.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uniform;

impl RankPolicy for Uniform {
    fn name(&self) -> &'static str {
        "uniform"
    }

    fn about(&self) -> &'static str {
        "the same share of ranks removed from every matrix"
    }

    fn reads(&self) -> PolicyReads {
        PolicyReads::MIN_RATIO
    }

    fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        // The score of a rank is the share of ranks that are gone once it is removed, less half a
        // rank.
        let allocation = problem.remove_lowest(|spectrum| {
            let full = spectrum.full_rank();
            (0..full).map(|i| 1.0 - (i as f64 + 0.5) / full as f64).collect()
        })?;
        Ok(Allocation { threshold: None, ..allocation })
    }
}

/// The smallest sum of relative errors, `Σ ‖W - W_r‖² / ‖W‖²` in the norm of the spectra.
/// Matrices for which factoring pays off least stay dense.
#[derive(Debug, Clone, Copy, Default)]
pub struct Energy;

impl RankPolicy for Energy {
    fn name(&self) -> &'static str {
        "energy"
    }

    fn about(&self) -> &'static str {
        "the smallest sum of relative errors"
    }

    fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        problem.least_loss(relative_tails)
    }
}

/// The smallest sum of errors in units of the loss. The spectra must be measured with the gradients
/// of a calibration: their squared singular values then estimate the cost of leaving a rank out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Loss;

impl RankPolicy for Loss {
    fn name(&self) -> &'static str {
        "loss"
    }

    fn about(&self) -> &'static str {
        "the smallest sum of errors in units of the loss, from the gradients of a calibration"
    }

    fn reads(&self) -> PolicyReads {
        PolicyReads::LOSS
    }

    fn allocate(&self, problem: &RankProblem<'_>) -> Result<Allocation, PlanError> {
        problem.least_loss(tails)
    }
}

/// [`tails`] as shares of the squared norm of the matrix.
pub(super) fn relative_tails(spectrum: &MatrixSpectrum) -> Vec<f64> {
    let tails = tails(spectrum);
    let total = tails[0] + spectrum.singular_values[0].powi(2);
    let scale = if total > 0.0 { 1.0 / total } else { 0.0 };
    tails.into_iter().map(|tail| tail * scale).collect()
}

/// Squared error of the best approximation at every rank from 1 on, summed from the smallest
/// singular value up, so that small tails are accurate.
pub(crate) fn tails(spectrum: &MatrixSpectrum) -> Vec<f64> {
    let values = &spectrum.singular_values;
    let mut tails = vec![0.0; values.len()];
    for rank in (1..values.len()).rev() {
        tails[rank - 1] = tails[rank] + values[rank].powi(2);
    }
    tails
}
