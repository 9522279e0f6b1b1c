//! The plan for one matrix.

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::forms::{Form, StoredError, rank_problem};
use crate::modules::MatrixName;

/// No matrix is larger in any dimension. The bound keeps products from overflowing.
const LARGEST: usize = 1 << 28;

/// The plan for one matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixPlan {
    /// Hugging Face name without `.weight`.
    pub name: MatrixName,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// `min(out, in)`.
    pub full_rank: usize,
    /// Rank that the policy keeps, even if the matrix stays dense.
    pub rank: usize,
    /// Share of the ranks removed, `1 - rank / full_rank`.
    pub reduction: f64,
    /// How it will be stored. A low-rank component (LRC) has a form of limited rank.
    pub form: Form,
    /// Whether the form was fixed by a [`Constraint`](super::Constraint), not chosen by the policy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fixed: bool,
    /// Whether it has more parameters in this form than the dense matrix.
    pub grows: bool,
    /// Number of parameters of the dense matrix.
    pub parameters_before: u64,
    /// Number of parameters in the planned form.
    pub parameters_after: u64,
    /// Whether it stayed dense with other entries, which make up for what was lost before it, once the
    /// plan was carried out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adapted: bool,
    /// Stored type of the entries.
    pub dtype: Dtype,
    /// BLAKE3 digest of the dense matrix that this was planned for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How far what is stored is from the dense matrix, once it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<StoredError>,
}

impl MatrixPlan {
    /// A matrix of shape `[out, in]` in a form. Its rank is that of the form, or the full rank if
    /// it is dense. The fields that follow from these are filled in by
    /// [`RankPlan::checked`](super::RankPlan::checked).
    pub fn new(name: impl Into<MatrixName>, shape: [usize; 2], form: Form, dtype: Dtype) -> Self {
        let full_rank = shape[0].min(shape[1]);
        Self {
            name: name.into(),
            shape,
            full_rank,
            rank: form.rank().unwrap_or(full_rank),
            reduction: 0.0,
            form,
            fixed: false,
            grows: false,
            parameters_before: 0,
            parameters_after: 0,
            adapted: false,
            dtype,
            digest: None,
            error: None,
        }
    }

    /// Whether it stays dense: all of its entries are stored, though they can be other ones.
    pub fn is_dense(&self) -> bool {
        self.form == Form::dense()
    }

    /// Whether it is a low-rank component (LRC), which will be factored.
    pub fn is_low_rank(&self) -> bool {
        self.form.rank().is_some()
    }

    /// Recounts what follows from shape, rank and form.
    pub(super) fn recounted(mut self) -> Self {
        self.parameters_before = Form::dense().parameters(self.shape);
        self.parameters_after = self.form.parameters(self.shape);
        self.grows = self.parameters_after > self.parameters_before;
        self.reduction = (self.full_rank - self.rank) as f64 / self.full_rank as f64;
        self.error = self.error.filter(StoredError::is_possible);
        self.adapted &= self.is_dense();
        self
    }

    /// Why no matrix can be like this, if that is so.
    pub(super) fn problem(&self) -> Option<String> {
        let full = self.shape[0].min(self.shape[1]);
        // Later products must not overflow, whatever a hostile file claims.
        if full == 0 || self.shape.iter().any(|n| *n > LARGEST) {
            Some(format!("a {} x {} matrix is impossible", self.shape[0], self.shape[1]))
        } else if self.full_rank != full {
            Some(format!("full_rank {} does not fit its shape {:?}", self.full_rank, self.shape))
        } else if !(1..=full).contains(&self.rank) {
            Some(format!("rank {} is not between 1 and {full}", self.rank))
        } else {
            rank_problem(self.rank, self.form).or_else(|| self.form.problem(self.shape))
        }
    }
}
