use serde::{Deserialize, Serialize};

use super::costs::{TensorCosts, TypeCost};
use crate::artifact::{Header, in_words};
use crate::ggml::TensorType;
use crate::plan::{Point, least_loss};
use crate::words::number_of;

const FORMAT: &str = "welore-types";
const VERSION: u32 = 1;

/// The type of every matrix of a model, for a budget of bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypePlan {
    format: String,
    version: u32,
    /// Where the costs came from, as a note.
    pub source: String,
    /// Digest of the calibration that they were measured with.
    pub calibration: String,
    /// The budget, in bytes of the whole file.
    pub max_bytes: u64,
    /// Bytes of the whole file.
    pub bytes: u64,
    /// Estimated rise of the loss in nats per token: the sum over all matrices.
    pub expected_loss: f64,
    /// One entry per matrix, in the model's order.
    pub matrices: Vec<TypeChoice>,
}

/// The type of one matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypeChoice {
    /// Hugging Face name of the tensor.
    pub tensor: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// How it is stored.
    #[serde(rename = "type")]
    pub tensor_type: TensorType,
    /// Bytes that it takes in the file, with the padding behind it.
    pub bytes: u64,
    /// Estimated rise of the loss in nats per token.
    pub loss: f64,
}

/// Why types cannot be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TypePlanError {
    /// No choice of types is small enough.
    #[error(
        "{} are out of reach; the smallest file of these types has {}",
        number_of(*max_bytes, "byte"),
        number_of(*reachable, "byte")
    )]
    OutOfReach {
        /// The budget.
        max_bytes: u64,
        /// The smallest size.
        reachable: u64,
    },
    /// A matrix can have none of the types that may be used.
    #[error("`{tensor}` has rows of {columns} entries, which none of the types can hold")]
    NoType {
        /// The tensor.
        tensor: String,
        /// Length of its rows.
        columns: usize,
    },
}

/// A file of types that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypePlanFileError {
    /// Not JSON, or not of this layout.
    #[error("not a plan of types: {}", in_words(.0))]
    Json(#[from] serde_json::Error),
    /// Another kind of JSON file.
    #[error("not a plan of types: its format is `{0}`, not `{FORMAT}`")]
    Format(String),
    /// Written by another version.
    #[error("version {0} of plans of types is not supported (only up to version {VERSION})")]
    Version(u32),
}

impl TypePlan {
    /// Chooses the types that raise the loss least in a file of at most `max_bytes`. `rest` is what
    /// the file has besides these matrices: its header, its vectors and their padding.
    ///
    /// The budget is never exceeded, and what is left of it is too little for any type that would
    /// lose less.
    ///
    /// # Errors
    ///
    /// [`TypePlanError`].
    pub fn new(
        source: impl Into<String>,
        calibration: impl Into<String>,
        costs: &[TensorCosts],
        rest: u64,
        max_bytes: u64,
    ) -> Result<Self, TypePlanError> {
        let candidates = costs.iter().map(useful).collect::<Result<Vec<_>, _>>()?;
        let point = |cost: &TypeCost| Point { cost: cost.bytes, loss: cost.loss };
        let curves: Vec<Vec<Point>> =
            candidates.iter().map(|of_one| of_one.iter().map(point).collect()).collect();
        let name = |index: usize| &costs[index].tensor;
        let chosen =
            least_loss(&curves, max_bytes.saturating_sub(rest), |a, b| name(a).cmp(name(b)))
                .map_err(|least| TypePlanError::OutOfReach {
                    max_bytes,
                    reachable: rest + least,
                })?;
        let smallest = || curves.iter().map(|points| points[0].cost).sum::<u64>();
        if rest > max_bytes {
            return Err(TypePlanError::OutOfReach { max_bytes, reachable: rest + smallest() });
        }
        let matrices: Vec<TypeChoice> = costs
            .iter()
            .zip(candidates)
            .zip(chosen)
            .map(|((costs, candidates), at)| {
                let TypeCost { tensor_type, bytes, loss } = candidates[at];
                let (tensor, shape) = (costs.tensor.clone(), costs.shape);
                TypeChoice { tensor, shape, tensor_type, bytes, loss }
            })
            .collect();
        Ok(Self {
            format: FORMAT.into(),
            version: VERSION,
            source: source.into(),
            calibration: calibration.into(),
            max_bytes,
            bytes: rest + matrices.iter().map(|matrix| matrix.bytes).sum::<u64>(),
            expected_loss: matrices.iter().map(|matrix| matrix.loss).sum(),
            matrices,
        })
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// [`TypePlanFileError`].
    pub fn from_json(text: &str) -> Result<Self, TypePlanFileError> {
        let header = Header::of(text)?;
        if header.format != FORMAT {
            return Err(TypePlanFileError::Format(header.format));
        }
        match header.version {
            VERSION => Ok(serde_json::from_str(text)?),
            version => Err(TypePlanFileError::Version(version)),
        }
    }

    /// The text of a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("finite numbers and strings always serialize")
    }

    /// The mean number of bits of a weight of the matrices that a selection names, scales included.
    pub fn bits(&self, selected: impl Fn(&str) -> bool) -> f64 {
        let of = self.matrices.iter().filter(|matrix| selected(&matrix.tensor));
        let (bytes, weights) = of.fold((0.0, 0.0), |(bytes, weights), matrix| {
            let [rows, columns] = matrix.shape;
            let row = matrix.tensor_type.row_bytes(columns).unwrap_or(0);
            (bytes + (row * rows) as f64, weights + (rows * columns) as f64)
        });
        8.0 * bytes / f64::max(weights, 1.0)
    }
}

/// The candidates of a tensor in order of increasing size; of several of one size, the best.
fn useful(costs: &TensorCosts) -> Result<Vec<TypeCost>, TypePlanError> {
    let mut candidates = costs.candidates.clone();
    candidates.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
    candidates.dedup_by_key(|candidate| candidate.bytes);
    match candidates.is_empty() {
        true => {
            let (tensor, columns) = (costs.tensor.clone(), costs.shape[1]);
            Err(TypePlanError::NoType { tensor, columns })
        }
        false => Ok(candidates),
    }
}
