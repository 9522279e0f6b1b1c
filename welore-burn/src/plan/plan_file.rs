use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::string::FromUtf8Error;

use serde::{Deserialize, Serialize};

use super::cost::ExpectedSpeed;
use super::matrix_plan::MatrixPlan;
use super::searched::SearchRecord;
use super::target::Target;
use crate::artifact::{Header, in_words};
use crate::calibrate::CalibrationAmount;
use crate::checkpoint::PLAN_FILE;
use crate::files::{FileError, LARGEST_PLAN, read_existing};
use crate::forms::{Form, Precision, update_entry};
use crate::modules::MatrixName;
use crate::spectrum::{ModelSize, SpectrumUnit};

const FORMAT: &str = "welore-plan";
const VERSION: u32 = 3;
/// In this version the form of a matrix is spread over several fields.
const SECOND_VERSION: u32 = 2;
/// In this version the only target is an effective rank reduction, in the field `target_err`.
const FIRST_VERSION: u32 = 1;

/// The rank and the form of every matrix. `plan` writes it, `compress` carries it out, and a
/// compressed model directory contains it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankPlan {
    format: String,
    version: u32,
    /// Where the spectra came from, as a note.
    pub source: String,
    /// Policy that chose the ranks, such as `welore`.
    pub policy: String,
    /// Unit of the singular values that the plan was made from.
    #[serde(default)]
    pub unit: SpectrumUnit,
    /// Digest of the calibration that they were measured with, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<String>,
    /// How much text that was measured on, as a note, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibrated_on: Option<CalibrationAmount>,
    /// Whether each matrix was made for the inputs that those before it left, once the plan was
    /// carried out, as a note.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sequential: bool,
    /// The requested target; `None` for a plan made by hand.
    pub target: Option<Target>,
    /// Ranks that score below this were removed, if the policy uses a threshold.
    pub threshold: Option<f64>,
    /// With a threshold, a matrix is a low-rank component (LRC) if it loses at least this share of
    /// its ranks, and at least one.
    pub min_ratio: f64,
    /// Ranks were rounded up to a multiple of this.
    pub rank_multiple: usize,
    /// Whether matrices that factoring would make larger were kept dense.
    pub never_grow: bool,
    /// Matrices were kept dense where factoring would have saved less than this share of their
    /// parameters, unless their rank was set.
    #[serde(default)]
    pub min_saving: f64,
    /// The lowest rank that a factored matrix could get, if there was such a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_rank: Option<usize>,
    /// The highest rank that a factored matrix could get, if there was such a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rank: Option<usize>,
    /// How the ranks were searched for, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchRecord>,
    /// Sums over the model.
    pub totals: PlanTotals,
    /// One entry per matrix, in the model's order.
    pub matrices: Vec<MatrixPlan>,
}

/// Sums over a plan. Parameters and bytes are those of the whole model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanTotals {
    /// Planned effective rank reduction (ERR): share of all ranks that the policy removes, counted
    /// over all matrices.
    pub err: f64,
    /// Share of all ranks that is actually removed, as the paper's authors count: matrices that
    /// stay dense count as 0.
    pub err_applied: f64,
    /// Share of the parameters of the planned matrices that is kept.
    #[serde(default)]
    pub keep_params: f64,
    /// Number of planned matrices, dense ones included.
    pub matrices: usize,
    /// Number of low-rank components, the matrices that are factored.
    pub lrcs: usize,
    /// Number of matrices that factoring makes larger.
    pub growing: usize,
    /// Number of parameters before compression.
    pub parameters_before: u64,
    /// Number of parameters after compression.
    pub parameters_after: u64,
    /// Number of bytes before compression.
    pub bytes_before: u64,
    /// Number of bytes after compression.
    pub bytes_after: u64,
    /// Estimated rise of the loss in nats per token, for spectra in units of the loss: half the sum
    /// of the squared singular values that are cut from factored matrices, to second order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_loss: Option<f64>,
    /// The same of what is stored, rounding included, once it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_loss: Option<f64>,
    /// Share of the squared Frobenius norm of all planned matrices that is cut, for spectra of the
    /// weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_lost: Option<f64>,
    /// The expected speed after compression.
    #[serde(default)]
    pub expected_speed: ExpectedSpeed,
}

/// A plan file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanFileError {
    /// Not JSON, or not of this layout.
    #[error("not a plan: {}", in_words(.0))]
    Json(#[from] serde_json::Error),
    /// Another kind of JSON file.
    #[error("not a plan: its format is `{0}`, not `{FORMAT}`")]
    Format(String),
    /// Written by another version.
    #[error("plan format version {0} is not supported (only up to version {VERSION})")]
    Version(u32),
    /// No matrices.
    #[error("the plan has no matrix")]
    NoMatrices,
    /// Impossible sums.
    #[error("totals: the matrices have more parameters than the model")]
    Totals,
    /// An impossible matrix.
    #[error("matrix `{name}`: {reason}")]
    Matrix {
        /// Name of the matrix.
        name: MatrixName,
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
        let bytes_before = |m: &MatrixPlan| Form::dense().bytes(m.shape, m.dtype);
        let bytes_after = |m: &MatrixPlan| m.form.bytes(m.shape, m.dtype);
        let (before, after) = (sum(&|m| m.parameters_before), sum(&|m| m.parameters_after));
        let low_rank = |m: &&MatrixPlan| m.is_low_rank();
        Self {
            err: share(&|_| true),
            err_applied: share(&MatrixPlan::is_low_rank),
            keep_params: after as f64 / before.max(1) as f64,
            matrices: matrices.len(),
            lrcs: matrices.iter().filter(low_rank).count(),
            growing: matrices.iter().filter(low_rank).filter(|m| m.grows).count(),
            parameters_before: model.parameters,
            parameters_after: model.parameters.saturating_sub(before).saturating_add(after),
            bytes_before: model.bytes,
            bytes_after: model
                .bytes
                .saturating_sub(sum(&bytes_before))
                .saturating_add(sum(&bytes_after)),
            expected_loss: None,
            stored_loss: None,
            energy_lost: None,
            expected_speed: ExpectedSpeed::of(matrices, model.parameters.saturating_sub(before)),
        }
    }
}

impl RankPlan {
    /// A plan for some matrices of a model of this size, each with its form. It has no target, and
    /// its policy is named `custom`.
    ///
    /// # Errors
    ///
    /// Those of [`RankPlan::checked`].
    ///
    /// # Examples
    ///
    /// ```
    /// use safetensors::Dtype;
    /// use welore_burn::forms::Form;
    /// use welore_burn::plan::{MatrixPlan, RankPlan};
    /// use welore_burn::spectrum::ModelSize;
    ///
    /// let size = ModelSize { parameters: 2 * 64 * 64, bytes: 4 * 2 * 64 * 64 };
    /// let matrix = |name: &str, form| MatrixPlan::new(name, [64, 64], form, Dtype::F32);
    /// let matrices = vec![matrix("up", Form::factors(8)), matrix("down", Form::dense())];
    /// let plan = RankPlan::new("by hand", size, matrices)?;
    /// assert_eq!(plan.totals.parameters_after, 8 * 128 + 64 * 64);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(
        source: impl Into<String>,
        model: ModelSize,
        matrices: Vec<MatrixPlan>,
    ) -> Result<Self, PlanFileError> {
        let totals = PlanTotals {
            parameters_before: model.parameters,
            bytes_before: model.bytes,
            ..PlanTotals::default()
        };
        let plan = Self {
            format: FORMAT.into(),
            version: VERSION,
            source: source.into(),
            policy: "custom".into(),
            unit: SpectrumUnit::Weights,
            calibration: None,
            calibrated_on: None,
            sequential: false,
            target: None,
            threshold: None,
            min_ratio: 0.0,
            rank_multiple: 1,
            never_grow: false,
            min_saving: 0.0,
            min_rank: None,
            max_rank: None,
            search: None,
            totals,
            matrices,
        };
        plan.checked()
    }

    /// Reads and checks the text of a plan file.
    ///
    /// # Errors
    ///
    /// [`PlanFileError`] if it is not a plan, and those of [`RankPlan::checked`].
    pub fn from_json(text: &str) -> Result<Self, PlanFileError> {
        let header = Header::of(text)?;
        if header.format != FORMAT {
            return Err(PlanFileError::Format(header.format));
        }
        let plan: Self = match header.version {
            VERSION => serde_json::from_str(text)?,
            FIRST_VERSION | SECOND_VERSION => from_earlier_version(text)?,
            version => return Err(PlanFileError::Version(version)),
        };
        plan.checked()
    }

    /// Checks that a plan is possible, and recounts everything that follows from ranks and forms:
    /// users edit plans, and stale sums would be shown and passed on.
    ///
    /// # Errors
    ///
    /// [`PlanFileError`] for a plan without matrices, a name that appears twice, an impossible
    /// shape, a full rank that is not `min(out, in)`, a rank outside `1..=full_rank`, a form that a
    /// matrix cannot have, and matrices that are larger than the model.
    pub fn checked(mut self) -> Result<Self, PlanFileError> {
        if self.matrices.is_empty() {
            return Err(PlanFileError::NoMatrices);
        }
        let mut names = BTreeSet::new();
        for matrix in &self.matrices {
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
        let PlanTotals { parameters_before: parameters, bytes_before: bytes, .. } = self.totals;
        self.matrices = self.matrices.into_iter().map(MatrixPlan::recounted).collect();
        let before = ModelSize { parameters, bytes };
        let sizes = self.matrices.iter().map(|matrix| matrix.parameters_before);
        let planned = sizes.fold(0, u64::saturating_add);
        if planned > before.parameters {
            return Err(PlanFileError::Totals);
        }
        self.totals = PlanTotals::of(&self.matrices, before).keeping_estimates_of(&self.totals);
        Ok(self)
    }

    /// The plan after all numbers of the compressed model were converted to another type, in which
    /// it has `bytes` bytes. What the dense model had is then counted in that type, too.
    pub fn stored_in(mut self, precision: Precision, bytes: u64) -> Self {
        let dtype = precision.dtype();
        self = self.without_errors();
        self.matrices.iter_mut().for_each(|matrix| matrix.dtype = dtype);
        let sum = |of: &dyn Fn(&MatrixPlan) -> u64| -> u64 {
            self.matrices.iter().map(of).fold(0, u64::saturating_add)
        };
        let dense = sum(&|matrix| Form::dense().bytes(matrix.shape, dtype));
        let planned = sum(&|matrix| matrix.form.bytes(matrix.shape, dtype));
        let bytes = bytes.saturating_sub(planned).saturating_add(dense);
        let before = ModelSize { parameters: self.totals.parameters_before, bytes };
        self.totals = PlanTotals::of(&self.matrices, before).keeping_estimates_of(&self.totals);
        self
    }

    /// The plan of the model that results when the factors of this one train: those in blocks became
    /// numbers, in the types of their matrices.
    pub fn with_factors_unpacked(mut self) -> Self {
        let unpacked = |matrix: MatrixPlan| {
            MatrixPlan { form: matrix.form.with_factors_unpacked(), ..matrix }.recounted()
        };
        self = self.without_errors();
        self.matrices = self.matrices.into_iter().map(unpacked).collect();
        let PlanTotals { parameters_before: parameters, bytes_before: bytes, .. } = self.totals;
        let before = ModelSize { parameters, bytes };
        self.totals = PlanTotals::of(&self.matrices, before).keeping_estimates_of(&self.totals);
        self
    }

    /// The plan without the errors of what was made by it: for what will be made, or has changed
    /// since.
    #[must_use]
    pub fn without_errors(mut self) -> Self {
        self.totals.stored_loss = None;
        self.matrices.iter_mut().for_each(|matrix| matrix.error = None);
        self
    }

    /// The text of a plan file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("finite numbers and strings always serialize")
    }

    /// The low-rank components: the matrices that are factored.
    pub fn low_rank(&self) -> impl Iterator<Item = &MatrixPlan> {
        self.matrices.iter().filter(|matrix| matrix.is_low_rank())
    }

    /// The matrices that get another form than the dense one.
    pub fn compressed(&self) -> impl Iterator<Item = &MatrixPlan> {
        self.matrices.iter().filter(|matrix| !matrix.is_dense())
    }

    /// The matrix with this name, if it gets another form than the dense one.
    pub fn find_compressed(&self, name: &MatrixName) -> Option<&MatrixPlan> {
        self.compressed().find(|matrix| matrix.name == *name)
    }
}

/// Converts a plan of an earlier version.
fn from_earlier_version(text: &str) -> Result<RankPlan, PlanFileError> {
    let mut value: serde_json::Value = serde_json::from_str(text)?;
    if let Some(plan) = value.as_object_mut() {
        if let Some(err) = plan.remove("target_err") {
            plan.insert("target".into(), serde_json::json!({ "err": err }));
        }
        plan.insert("version".into(), VERSION.into());
        let matrices = plan.get_mut("matrices").and_then(serde_json::Value::as_array_mut);
        let entries = matrices.into_iter().flatten().filter_map(serde_json::Value::as_object_mut);
        entries.for_each(update_entry);
    }
    Ok(serde_json::from_value(value)?)
}

/// Reads the plan in a model directory, if there is one.
///
/// # Errors
///
/// [`ReadPlanError`] for a file that cannot be read, is not a plan, or is an impossible one.
pub fn read_plan(dir: impl AsRef<Path>) -> Result<Option<RankPlan>, ReadPlanError> {
    let path = dir.as_ref().join(PLAN_FILE);
    let Some(bytes) = read_existing(&path, LARGEST_PLAN)? else { return Ok(None) };
    let not_text =
        |error: FromUtf8Error| FileError::io(&path)(io::Error::new(ErrorKind::InvalidData, error));
    let text = String::from_utf8(bytes).map_err(not_text)?;
    RankPlan::from_json(&text).map(Some).map_err(|source| ReadPlanError::Plan { path, source })
}

/// Why the plan in a model directory cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadPlanError {
    /// The file cannot be read.
    #[error("{0}")]
    File(#[from] FileError),
    /// The file is not a plan, or is an impossible one.
    #[error("{path}: {source}", path = path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: PlanFileError,
    },
}
