use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::budget::{TypeBudget, stored_bytes, weights_of};
use super::costs::{TensorCosts, TypeCost};
use super::error::TypesError;
use super::stacks::stacks;
use crate::artifact::{Header, in_words};
use crate::calibrate::is_token_matrix;
use crate::checkpoint::Checkpoint;
use crate::ggml::TensorType;
use crate::named::Named;
use crate::words::number_of;

const FORMAT: &str = "welore-types";
const VERSION: u32 = 1;

/// The type of every matrix of a model, for a budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypePlan {
    format: String,
    version: u32,
    /// Where the costs came from, as a note.
    pub source: String,
    /// Digest of the calibration that they were measured with.
    pub calibration: String,
    /// The budget.
    pub target: TypeBudget,
    /// Bytes of the whole file.
    pub bytes: u64,
    /// Estimated rise of the loss in nats per token: the sum over all matrices.
    pub expected_loss: f64,
    /// Mean KL divergence of the whole quantized model from the dense one in nats per token, if it was
    /// measured: see [`measure_stored`](super::measure_stored).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured_kl: Option<f64>,
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
    /// BLAKE3 digest of its type, shape and bytes in the model.
    pub digest: String,
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
    /// No choice of types has so few bits, or so many.
    #[error(
        "{bits} bits a weight are out of reach; the projections can have {least} to {most} in these \
         types"
    )]
    BitsOutOfReach {
        /// The budget.
        bits: f64,
        /// The fewest, rounded up.
        least: f64,
        /// The most, rounded down.
        most: f64,
    },
    /// The choice makes no plan.
    #[error("the forms make no plan: {0}")]
    Impossible(String),
    /// A matrix can have none of the types that may be used.
    #[error("`{tensor}` has rows of {columns} entries, which none of the types can hold")]
    NoType {
        /// The tensor.
        tensor: String,
        /// Length of its rows.
        columns: usize,
    },
    /// A matrix can have none of the forms that may be used.
    #[error(
        "`{tensor}`, of shape {rows}x{columns}, can have none of the forms and types that are allowed",
        rows = shape[0],
        columns = shape[1]
    )]
    NoForm {
        /// The tensor.
        tensor: String,
        /// `[out, in]`.
        shape: [usize; 2],
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
    /// A matrix of a shape that none can have.
    #[error("not a plan of types: `{0}` has an impossible shape")]
    Shape(String),
    /// Written by another version.
    #[error("version {0} of plans of types is not supported (only up to version {VERSION})")]
    Version(u32),
}

impl TypePlan {
    /// Chooses the types that raise the loss least within a budget. `rest` is what the file has
    /// besides these matrices: its header, its vectors and their padding. The same matrix of all experts
    /// of a layer is one tensor in a file, and has one type.
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
        target: TypeBudget,
    ) -> Result<Self, TypePlanError> {
        let stacks = stacks(costs.iter().map(|of| (of.tensor.as_str(), of.shape)));
        let of_stacks: Vec<TensorCosts> = stacks.iter().map(|stack| stack.costs(costs)).collect();
        let candidates = of_stacks.iter().map(useful).collect::<Result<Vec<_>, _>>()?;
        let chosen = target.choose(&of_stacks, &candidates, rest)?;
        let of_each = stacks.iter().zip(candidates).zip(chosen);
        let of_each = of_each.flat_map(|((stack, of), at)| stack.choices(costs, of[at]));
        let mut choices: Vec<(usize, TypeChoice)> = of_each.collect();
        choices.sort_by_key(|(number, _)| *number);
        let matrices: Vec<TypeChoice> = choices.into_iter().map(|(_, choice)| choice).collect();
        Ok(Self {
            format: FORMAT.into(),
            version: VERSION,
            source: source.into(),
            calibration: calibration.into(),
            target,
            bytes: rest + matrices.iter().map(|matrix| matrix.bytes).sum::<u64>(),
            expected_loss: matrices.iter().map(|matrix| matrix.loss).sum(),
            measured_kl: None,
            matrices,
        })
    }

    /// Checks that the plan is for a model: that it has a type for each of `tensors`, the matrices of
    /// the model, and for no others, and that their weights are those that it was made for.
    ///
    /// # Errors
    ///
    /// [`TypesError::Foreign`], [`TypesError::Checkpoint`].
    pub fn check(&self, checkpoint: &Checkpoint, tensors: &[String]) -> Result<(), TypesError> {
        let foreign =
            |tensor: &str, reason: String| TypesError::Foreign { tensor: tensor.into(), reason };
        let mut planned: BTreeMap<&str, &TypeChoice> = BTreeMap::new();
        for choice in &self.matrices {
            if planned.insert(&choice.tensor, choice).is_some() {
                return Err(foreign(&choice.tensor, "is in it twice".into()));
            }
        }
        for tensor in tensors {
            let Some(choice) = planned.remove(tensor.as_str()) else {
                return Err(foreign(tensor, "has no type in it".into()));
            };
            let shape = checkpoint.matrix_shape(tensor)?;
            if choice.shape != shape {
                let reason = format!("is {:?} in it, and {shape:?} here", choice.shape);
                return Err(foreign(tensor, reason));
            }
            if choice.tensor_type.row_bytes(shape[1]).is_none() {
                let (name, columns) = (choice.tensor_type.name(), shape[1]);
                let reason = format!("has rows of {columns} entries, which {name} cannot hold");
                return Err(foreign(tensor, reason));
            }
            if choice.digest != checkpoint.digest(tensor)? {
                return Err(foreign(tensor, "has weights other than the planned ones".into()));
            }
        }
        match planned.keys().next() {
            Some(tensor) => Err(foreign(tensor, "is no matrix here".into())),
            None => Ok(()),
        }
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
        if header.version != VERSION {
            return Err(TypePlanFileError::Version(header.version));
        }
        let plan: Self = serde_json::from_str(text)?;
        let possible = |side: &usize| (1..1 << 28).contains(side);
        match plan.matrices.iter().find(|matrix| !matrix.shape.iter().all(possible)) {
            Some(matrix) => Err(TypePlanFileError::Shape(matrix.tensor.clone())),
            None => Ok(plan),
        }
    }

    /// The text of a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("finite numbers and strings always serialize")
    }

    /// The mean number of bits of a weight of the projections, which are all matrices but embedding
    /// and head, scales included.
    pub fn bits(&self) -> f64 {
        let of = || self.matrices.iter().filter(|matrix| !is_token_matrix(&matrix.tensor));
        let bytes: f64 = of().map(|m| stored_bytes(m.tensor_type, m.shape) as f64).sum();
        let weights: f64 = of().map(|m| weights_of(m.shape) as f64).sum();
        8.0 * bytes / weights.max(1.0)
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
