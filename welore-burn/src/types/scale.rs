//! How much more a model loses than the sum of what its matrices are estimated to lose.

use burn::module::Module;

use super::budget::TypeBudget;
use super::cache::CostCache;
use super::costs::{CostOptions, TensorCosts, TypeCost, divergence_on_first, stored, with_values};
use super::error::TypesError;
use super::rounding::Inputs;
use super::type_plan::{TypeChoice, TypePlan, TypePlanError};
use crate::calibrate::Calibration;
use crate::checkpoint::Checkpoint;
use crate::ggml::TensorType;
use crate::model::LanguageModel;
use crate::modules::MatrixName;
use crate::progress::{Part, Progress};

/// The mean number of bits with which the scale is measured: models lose enough to measure, and
/// matrices that lose most have types that are large enough for the second order to be right.
const BITS: f64 = 5.0;

/// The name of the scale in the cache.
const NAME: &str = "scale";

/// The types that matrices have while the scale is measured: the best ones of about so many bits.
fn reference(costs: &[TensorCosts]) -> Result<Vec<TypeCost>, TypePlanError> {
    let plan = |bits: f64| TypePlan::new("", "", costs, 0, TypeBudget::Bits(bits));
    let plan = match plan(BITS) {
        Err(TypePlanError::BitsOutOfReach { least, .. }) => plan(least)?,
        other => other?,
    };
    let cost =
        |of: &TypeChoice| TypeCost { tensor_type: of.tensor_type, bytes: of.bytes, loss: of.loss };
    Ok(plan.matrices.iter().map(cost).collect())
}

/// Identifies the scale in the cache: what the costs depend on, and the types.
fn key_of(
    calibration: &Calibration,
    costs: &[TensorCosts],
    chosen: &[TypeCost],
    options: &CostOptions,
) -> String {
    let mut hasher = blake3::Hasher::new();
    for (costs, chosen) in costs.iter().zip(chosen) {
        let line = format!("{} {} {:?}\n", costs.tensor, costs.digest, chosen.tensor_type);
        hasher.update(line.as_bytes());
    }
    let (of, windows, rounding) = (calibration.digest(), options.windows, options.rounding.key());
    format!("scale {} {of} {windows} {rounding} {:?}", hasher.finalize().to_hex(), options.dtype)
}

/// The scale that [`measure_scale`] has measured before, if the cache still has it: it takes no model
/// to find it. 1 where there is nothing to measure.
pub fn known_scale(
    calibration: &Calibration,
    costs: &[TensorCosts],
    options: &CostOptions,
) -> Option<f64> {
    let chosen = reference(costs).ok()?;
    if chosen.iter().map(|cost| cost.loss).sum::<f64>() <= 0.0 {
        return Some(1.0);
    }
    let cache = options.cache.as_deref().map(CostCache::new)?;
    let found = cache.find(&key_of(calibration, costs, &chosen, options), &[NAME.into()])?;
    found.first().copied()
}

/// What the matrices of a calibration lose together, divided by the sum of what each is estimated to
/// lose: errors of several tokens and matrices add to each other, which [`measure_types`] does not
/// see, and the divergences of embedding and head are measured, not estimated. All these matrices get
/// types of 5 bits in the mean, and the divergence of the model from the dense one is measured on the
/// first windows of the calibration's text. The scale hardly depends on these types.
///
/// [`measure_types`]: super::measure_types
///
/// # Errors
///
/// [`TypesError`].
pub fn measure_scale<M: LanguageModel + Module + Clone>(
    model: &M,
    checkpoint: &Checkpoint,
    calibration: &Calibration,
    costs: &[TensorCosts],
    options: &CostOptions,
    progress: &mut dyn Progress,
) -> Result<f64, TypesError> {
    if let Some(known) = known_scale(calibration, costs, options) {
        return Ok(known);
    }
    let chosen = reference(costs)?;
    let mut changed = Some(model.clone());
    let needs: Vec<u64> = costs.iter().map(|of| memory(of.shape)).collect();
    progress.begin("rounding", costs.len());
    options.budget.workers().try_spread_within(
        options.budget.memory,
        &needs,
        |index| {
            let (tensor, columns) = (&costs[index].tensor, costs[index].shape[1]);
            let of = chosen[index].tensor_type;
            rounded(checkpoint, calibration, tensor, columns, of, options)
        },
        |index, values| -> Result<(), TypesError> {
            let TensorCosts { tensor, shape, .. } = &costs[index];
            changed = changed.take().map(|model| with_values(model, tensor, values, *shape));
            let (item, operations, known) = (tensor.as_str(), 0, false);
            Ok(progress.part(Part { item, steps: 1, operations, known })?)
        },
    )?;
    let Some(changed) = changed else { return Ok(1.0) };
    let kl = divergence_on_first(&changed, model, calibration, options, progress)?;
    let scale = kl / chosen.iter().map(|cost| cost.loss).sum::<f64>();
    // A model that predicts nothing tells nothing.
    let scale = if scale.is_finite() && scale > 0.0 { scale } else { 1.0 };
    if let Some(cache) = options.cache.as_deref().map(CostCache::new) {
        let key = key_of(calibration, costs, &chosen, options);
        cache.keep(&key, vec![(NAME.into(), scale)]);
    }
    Ok(scale)
}

/// The numbers that a type stores in place of those of a matrix.
fn rounded(
    checkpoint: &Checkpoint,
    calibration: &Calibration,
    tensor: &str,
    columns: usize,
    tensor_type: TensorType,
    options: &CostOptions,
) -> Result<Vec<f32>, TypesError> {
    let entries = checkpoint.read_f32(tensor)?;
    checkpoint.release(tensor);
    let Some(name) = MatrixName::of_weight(tensor) else { return Ok(entries) };
    let (inputs, outputs) = (calibration.inputs(&name)?, calibration.outputs(&name)?);
    let inputs = Inputs::of(&inputs, Some(&outputs), options.rounding)
        .map_err(|source| TypesError::Linalg { tensor: tensor.into(), source })?;
    stored(&inputs, tensor_type, &entries, columns)
        .map_err(|source| TypesError::Quantize { tensor: tensor.into(), source })
}

/// Bytes that a matrix needs while it is rounded.
fn memory([rows, columns]: [usize; 2]) -> u64 {
    let [m, n] = [rows as u64, columns as u64];
    m.saturating_mul(n).saturating_mul(24).saturating_add(16 * (m * m + n * n))
}
