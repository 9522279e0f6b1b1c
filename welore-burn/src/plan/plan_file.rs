use std::collections::BTreeSet;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::target::{Storage, Target};
use crate::artifact::Header;
use crate::spectrum::{ModelSize, SpectrumUnit};

pub(super) const FORMAT: &str = "welore-plan";
pub(super) const VERSION: u32 = 2;
/// Plans of this version have an effective rank reduction as `target_err`, and no other target.
const FIRST_VERSION: u32 = 1;

/// No matrix is larger in any dimension; keeps products from overflowing.
const LARGEST: usize = 1 << 28;

/// What becomes of every matrix: what `plan` writes, `compress` carries out, and a
/// compressed model directory carries along.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankPlan {
    pub(super) format: String,
    pub(super) version: u32,
    /// Where the spectra came from, for people.
    pub source: String,
    /// Policy that chose the ranks, such as `welore`.
    pub policy: String,
    /// What the singular values that it was made from measure.
    #[serde(default)]
    pub unit: SpectrumUnit,
    /// Digest of the calibration that they came of, if they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// What was asked for.
    pub target: Target,
    /// Ranks that score below this were removed, where the policy has such a score.
    pub threshold: Option<f64>,
    /// A matrix is a low-rank component (LRC) when its reduction exceeds this.
    pub min_ratio: f64,
    /// Ranks are rounded up to a multiple of this.
    pub rank_multiple: usize,
    /// Whether matrices that factoring would make larger were kept dense.
    pub never_grow: bool,
    /// Sums over the model.
    pub totals: PlanTotals,
    /// One entry a matrix, in the model's order.
    pub matrices: Vec<MatrixPlan>,
}

/// Sums over a plan. Parameters and bytes are the whole model's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PlanTotals {
    /// Planned effective rank reduction: share of all ranks that the policy removes,
    /// counted over all matrices as in the paper.
    pub err: f64,
    /// Share of all ranks that is really removed: matrices that stay dense count as 0.
    pub err_applied: f64,
    /// Share of the parameters of all these matrices that is kept.
    #[serde(default)]
    pub keep_params: f64,
    /// Number of matrices looked at.
    pub matrices: usize,
    /// Number of low-rank components, the matrices that are factored.
    pub lrcs: usize,
    /// Matrices that factoring makes larger.
    pub growing: usize,
    /// Parameters of the model before.
    pub parameters_before: u64,
    /// Parameters of the model after.
    pub parameters_after: u64,
    /// Bytes of the model before.
    pub bytes_before: u64,
    /// Bytes of the model after.
    pub bytes_after: u64,
}

/// What becomes of one matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MatrixPlan {
    /// Hugging Face name without `.weight`.
    pub name: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// `min(out, in)`.
    pub full_rank: usize,
    /// Kept rank, also where the matrix stays dense by class.
    pub rank: usize,
    /// Share of the ranks removed, `1 - rank / full_rank`.
    pub reduction: f64,
    /// Whether it is a low-rank component (LRC) and is factored.
    pub low_rank: bool,
    /// How it is stored if it is.
    #[serde(default)]
    pub storage: Storage,
    /// Whether factoring at `rank` takes more parameters than the dense matrix.
    pub grows: bool,
    /// Parameters now.
    pub parameters_before: u64,
    /// Parameters as planned.
    pub parameters_after: u64,
    /// Stored type of the entries.
    pub dtype: Dtype,
    /// BLAKE3 of the dense matrix this was planned for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// A plan file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    /// Not JSON, or not of this layout.
    #[error("not a plan: {0}")]
    Json(#[from] serde_json::Error),
    /// Some other JSON file.
    #[error("not a plan: its format is `{0}`, not `{FORMAT}`")]
    Format(String),
    /// Written by a newer version.
    #[error("plan format version {0} is not known here (this is version {VERSION})")]
    Version(u32),
    /// No matrix in it.
    #[error("the plan has no matrix")]
    NoMatrices,
    /// Sums that cannot be.
    #[error("totals: the matrices have more parameters than the model")]
    Totals,
    /// A matrix that cannot be.
    #[error("matrix `{name}`: {reason}")]
    Matrix {
        /// Name of the matrix.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

impl PlanTotals {
    /// The sums over matrices of a model of this size.
    pub(super) fn of(matrices: &[MatrixPlan], model: ModelSize) -> Self {
        let ranks: usize = matrices.iter().map(|m| m.full_rank).sum();
        let share = |of: &dyn Fn(&MatrixPlan) -> bool| {
            let removed: usize =
                matrices.iter().filter(|m| of(m)).map(|m| m.full_rank - m.rank).sum();
            removed as f64 / ranks as f64
        };
        // Saturating, because a plan file may claim any size.
        let sum =
            |of: &dyn Fn(&MatrixPlan) -> u64| matrices.iter().map(of).fold(0, u64::saturating_add);
        let bytes = |m: &MatrixPlan, parameters: u64| parameters * m.dtype.bitsize() as u64 / 8;
        let index_bytes =
            |m: &MatrixPlan| if m.low_rank { m.storage.index_bytes(m.rank) } else { 0 };
        let (before, after) = (sum(&|m| m.parameters_before), sum(&|m| m.parameters_after));
        let low_rank = |m: &&MatrixPlan| m.low_rank;
        Self {
            err: share(&|_| true),
            err_applied: share(&|m| m.low_rank),
            keep_params: after as f64 / before.max(1) as f64,
            matrices: matrices.len(),
            lrcs: matrices.iter().filter(low_rank).count(),
            growing: matrices.iter().filter(low_rank).filter(|m| m.grows).count(),
            parameters_before: model.parameters,
            parameters_after: model.parameters.saturating_sub(before).saturating_add(after),
            bytes_before: model.bytes,
            bytes_after: model
                .bytes
                .saturating_sub(sum(&|m| bytes(m, m.parameters_before)))
                .saturating_add(sum(&|m| bytes(m, m.parameters_after) + index_bytes(m))),
        }
    }
}

impl RankPlan {
    /// Reads and checks a plan's text.
    ///
    /// # Errors
    ///
    /// [`PlanFileError`] if it is not a plan, or if it asks for something impossible: a rank
    /// outside `1..=full_rank`, a full rank that is not `min(out, in)`, a name twice. What
    /// follows from ranks and classes is counted anew.
    pub fn from_json(text: &str) -> Result<Self, PlanFileError> {
        let header = Header::of(text)?;
        if header.format != FORMAT {
            return Err(PlanFileError::Format(header.format));
        }
        let plan: Self = match header.version {
            VERSION => serde_json::from_str(text)?,
            FIRST_VERSION => from_first_version(text)?,
            version => return Err(PlanFileError::Version(version)),
        };
        if plan.matrices.is_empty() {
            return Err(PlanFileError::NoMatrices);
        }
        let mut names = BTreeSet::new();
        for matrix in &plan.matrices {
            let problem = if !names.insert(&matrix.name) {
                Some("appears twice".into())
            } else {
                matrix.problem()
            };
            if let Some(reason) = problem {
                let name = matrix.name.clone();
                return Err(PlanFileError::Matrix { name, reason });
            }
        }
        plan.recount()
    }

    /// The plan with everything that follows from ranks and classes counted anew: people edit
    /// plans, and stale sums would be shown and passed on.
    fn recount(mut self) -> Result<Self, PlanFileError> {
        let PlanTotals { parameters_before: parameters, bytes_before: bytes, .. } = self.totals;
        self.matrices = self.matrices.into_iter().map(MatrixPlan::recounted).collect();
        let before = ModelSize { parameters, bytes };
        let sizes = self.matrices.iter().map(|matrix| matrix.parameters_before);
        let planned = sizes.fold(0, u64::saturating_add);
        if planned > before.parameters {
            return Err(PlanFileError::Totals);
        }
        self.totals = PlanTotals::of(&self.matrices, before);
        Ok(self)
    }

    /// The plan file's text.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("finite numbers and strings always serialize")
    }

    /// The low-rank components: the matrices that are factored.
    pub fn low_rank(&self) -> impl Iterator<Item = &MatrixPlan> {
        self.matrices.iter().filter(|matrix| matrix.low_rank)
    }

    /// The low-rank component of this name.
    pub fn find_low_rank(&self, name: &str) -> Option<&MatrixPlan> {
        self.low_rank().find(|matrix| matrix.name == name)
    }
}

/// Reads a plan of the first version as one of this version.
fn from_first_version(text: &str) -> Result<RankPlan, PlanFileError> {
    let mut value: serde_json::Value = serde_json::from_str(text)?;
    if let Some(plan) = value.as_object_mut() {
        let err = plan.remove("target_err").unwrap_or_default();
        plan.insert("target".into(), serde_json::json!({ "err": err }));
        plan.insert("version".into(), VERSION.into());
    }
    Ok(serde_json::from_value(value)?)
}

impl MatrixPlan {
    /// What follows from shape, rank and class.
    pub(super) fn recounted(mut self) -> Self {
        let [rows, cols] = self.shape.map(|n| n as u64);
        let factored = self.storage.parameters(self.shape, self.rank);
        self.parameters_before = rows * cols;
        self.grows = factored > self.parameters_before;
        self.reduction = (self.full_rank - self.rank) as f64 / self.full_rank as f64;
        self.parameters_after = if self.low_rank { factored } else { self.parameters_before };
        self
    }

    fn problem(&self) -> Option<String> {
        let full = self.shape[0].min(self.shape[1]);
        // Later products must not overflow, whatever a hostile file says.
        if full == 0 || self.shape.iter().any(|n| *n > LARGEST) {
            Some(format!("a {} x {} matrix cannot be", self.shape[0], self.shape[1]))
        } else if self.full_rank != full {
            Some(format!("full_rank {} does not fit its shape {:?}", self.full_rank, self.shape))
        } else if !(1..=full).contains(&self.rank) {
            Some(format!("rank {} is not in 1..={full}", self.rank))
        } else if self.low_rank && self.storage == Storage::Pivot && self.rank == full {
            Some("pivoted storage at full rank is the dense matrix".into())
        } else {
            None
        }
    }
}
