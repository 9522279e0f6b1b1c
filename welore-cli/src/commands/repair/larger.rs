//! What larger types of llama.cpp would leave for the bytes of an adapter.

use std::num::NonZeroUsize;

use anyhow::Result;
use burn::tensor::FloatDType;
use serde_json::{Value, json};
use welore_burn::difference::MatrixDifference;
use welore_burn::ggml::TensorType;
use welore_burn::modules::MatrixName;
use welore_burn::named::Named;
use welore_burn::plan::{Point, least_loss};
use welore_burn::types::{CostOptions, Rounding, TensorCosts, candidates, measure_types};
use welore_burn::workers::Budget;

use crate::cache::cache_dir;
use crate::format;
use crate::shared::differing::{Job, Made, Opened};
use crate::terminal::Bar;

/// Bytes of a number of an adapter that is stored as f16, which llama.cpp reads too.
const BYTES_OF_F16: u64 = 2;

/// Bytes of which llama.cpp's files hold a multiple for each tensor.
const ALIGNMENT: u64 = 32;

/// The next larger type of a matrix beside its adapter.
#[derive(Debug)]
struct Next {
    name: MatrixName,
    tensor_type: TensorType,
    /// Bytes that it takes more than the present type.
    more: u64,
    /// Bytes of the adapter in f16.
    adapter: u64,
}

/// What larger types would leave.
#[derive(Debug)]
pub struct Larger {
    /// For each matrix that has a larger type.
    next: Vec<Next>,
    /// Bytes of the whole adapter in f16.
    bytes: u64,
    /// Expected losses in nats per token: with the adapter, and with the best types that take no more
    /// bytes. Only with gradients.
    losses: Option<[f64; 2]>,
}

impl Larger {
    /// Looks for larger types, and measures what they cost if a calibration has gradients. `None` if
    /// no matrix has a larger type.
    pub fn find(job: &Job<'_>, opened: &Opened, made: &Made) -> Result<Option<Self>> {
        let matrices = made.differences.matrices.iter().zip(&made.ranks);
        let next: Vec<Next> =
            matrices.filter_map(|(matrix, rank)| next_of(matrix, *rank as u64)).collect();
        if next.is_empty() {
            return Ok(None);
        }
        let bytes = BYTES_OF_F16 * made.parameters();
        let losses = match made.losses() {
            Some([_, left]) => types_for(job, opened, made, bytes)?.map(|types| [left, types]),
            None => None,
        };
        Ok(Some(Self { next, bytes, losses }))
    }

    /// Number of matrices whose adapter takes at least the bytes of the next larger type.
    fn dear(&self) -> usize {
        self.next.iter().filter(|next| next.adapter > 0 && next.adapter >= next.more).count()
    }

    /// For JSON results.
    pub fn as_json(&self) -> Value {
        let next = self.next.iter().map(|next| {
            json!({
                "name": next.name,
                "next_type": next.tensor_type.name(),
                "more_bytes": next.more,
                "adapter_bytes": next.adapter,
            })
        });
        json!({
            "adapter_bytes": self.bytes,
            "dearer_than_next_type": self.dear(),
            "loss_with_adapter": self.losses.map(|[adapter, _]| adapter),
            "loss_with_types": self.losses.map(|[_, types]| types),
            "matrices": next.collect::<Vec<Value>>(),
        })
    }

    /// Prints the comparison, if there is one.
    pub fn tell(&self) -> Result<()> {
        let Some([adapter, types]) = self.losses else { return Ok(()) };
        say!(
            "in f16 the adapter takes {}; the same bytes spent on larger types would leave {types:.6} \
             nats instead of {adapter:.6}",
            format::bytes(self.bytes)
        );
        Ok(())
    }

    /// Warns where a larger type would do as well.
    pub fn warn(&self) {
        if let Some([adapter, types]) = self.losses {
            if types <= adapter {
                tell!(
                    "warning: larger types lose less for the same bytes: `welore-cli compress MODEL \
                     --for llama.cpp` chooses them"
                );
            }
            return;
        }
        let dear = self.dear();
        if dear > 0 {
            tell!(
                "warning: {} an adapter that takes no fewer bytes in f16 than the next larger type of \
                 llama.cpp adds; a --calibration with gradients tells which loses less",
                format::some_matrices(dear, self.next.len(), ["has", "have"])
            );
        }
    }
}

/// The types that are considered: bf16 is as large as f16, and less precise.
fn types() -> Vec<TensorType> {
    let all = TensorType::all().iter().copied();
    all.filter(|of| !matches!(of, TensorType::F32 | TensorType::Bf16)).collect()
}

/// Bytes of a matrix in a file, with the padding behind it.
fn padded(matrix: &MatrixDifference) -> u64 {
    matrix.bytes.next_multiple_of(ALIGNMENT)
}

/// The smallest type that is larger than the present one.
fn next_of(matrix: &MatrixDifference, rank: u64) -> Option<Next> {
    let present = padded(matrix);
    let types = types();
    let larger = candidates(matrix.shape, &types).filter(|(_, bytes)| *bytes > present);
    let (tensor_type, bytes) = larger.min_by_key(|(_, bytes)| *bytes)?;
    let adapter = BYTES_OF_F16 * rank * matrix.parameters_of_rank();
    Some(Next { name: matrix.name.clone(), tensor_type, more: bytes - present, adapter })
}

/// The smallest expected loss of all matrices in types that take at most so many bytes more than the
/// present ones; `None` if the source is not dense, so that no type can be tried.
fn types_for(job: &Job<'_>, opened: &Opened, made: &Made, more: u64) -> Result<Option<f64>> {
    let source = opened.to.checkpoint();
    let Some(calibration) = &opened.calibration else { return Ok(None) };
    let matrices = &made.differences.matrices;
    let names: Vec<MatrixName> = matrices.iter().map(|matrix| matrix.name.clone()).collect();
    if names.iter().any(|name| source.meta(&name.weight()).is_none()) {
        return Ok(None);
    }
    let least = |tensor_type: &TensorType| {
        let one = std::slice::from_ref(tensor_type);
        let is_larger = |matrix: &MatrixDifference| {
            candidates(matrix.shape, one).any(|(_, bytes)| bytes > padded(matrix))
        };
        matrices.iter().any(is_larger)
    };
    let options = CostOptions {
        types: types().into_iter().filter(least).collect(),
        rounding: Rounding::default(),
        budget: Budget { jobs: job.args.jobs, memory: job.args.max_memory },
        windows: 1,
        at_once: NonZeroUsize::MIN,
        dtype: FloatDType::F32,
        cache: cache_dir("types"),
    };
    let mut bar = Bar::default();
    let costs = measure_types(source, calibration, &names, &options, &mut bar)?;
    bar.finish();
    let present = made.approximations.iter().map(|made| made.losses.map_or(0.0, |[loss, _]| loss));
    let curves: Vec<Vec<Point>> = matrices
        .iter()
        .zip(&costs)
        .zip(present)
        .map(|((matrix, costs), loss)| curve(Point { cost: padded(matrix), loss }, costs))
        .collect();
    let spent: u64 = curves.iter().map(|curve| curve[0].cost).sum();
    let order = |a: usize, b: usize| names[a].cmp(&names[b]);
    let chosen = least_loss(&curves, spent.saturating_add(more), order).unwrap_or_default();
    Ok(Some(curves.iter().zip(chosen).map(|(curve, at)| curve[at].loss).sum()))
}

/// The present type and all larger ones, in order of their bytes.
fn curve(present: Point, costs: &TensorCosts) -> Vec<Point> {
    let larger = costs.candidates.iter().filter(|cost| cost.bytes > present.cost);
    let mut points: Vec<Point> =
        larger.map(|cost| Point { cost: cost.bytes, loss: cost.loss }).collect();
    points.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.loss.total_cmp(&b.loss)));
    points.insert(0, present);
    points.dedup_by_key(|point| point.cost);
    points
}
