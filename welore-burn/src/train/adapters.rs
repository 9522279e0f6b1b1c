//! LoRA adapters on any module.

use std::collections::BTreeSet;

use burn::module::Module;

use super::error::TrainError;
use super::methods::Trainable;
use super::options::{LoraOptions, TrainOptions};
use crate::forms::{FormError, LiveMatrix, attach_adapters, matrices};
use crate::modules::{MatrixName, Selection};

/// Adds LoRA adapters (arXiv 2106.09685) to the selected matrices of any module, dense or
/// compressed, and freezes every other parameter: the module computes the same as before, and only
/// adapters train.
///
/// Compressed matrices stay compressed. [`LowRankLinear`](crate::linear::LowRankLinear) multiplies
/// by the adapter beside the factors; other layers, such as `nn::Linear`, build the sum in every
/// forward pass. Adapters begin with random numbers: `Device::seed` makes them reproducible.
/// They have the type of their matrix, and f32 if that is quantized.
///
/// - Burn's records hold adapters. Their paths contain `.lora.`, so
///   `into_record_group(ParamGroup::from_predicate(".lora."))` records adapters alone.
/// - `materialize` merges them. The result is dense, because the sum has a larger rank than the
///   factors.
///
/// `Selection::all()` takes every matrix called `weight`, embeddings too.
///
/// # Errors
///
/// [`TrainError::Option`] for a rank that is 0 or larger than the full rank of a selected matrix,
/// and for a scale that is not above 0; [`TrainError::UnmatchedPattern`],
/// [`TrainError::NothingSelected`]; [`TrainError::Form`] for a matrix that has an adapter already,
/// and for one in blocks.
///
/// # Examples
///
/// ```
/// use burn::module::Module;
/// use burn::tensor::{Device, Tensor};
/// use welore_burn::linear::{LowRankLinear, LowRankLinearConfig};
/// use welore_burn::modules::Selection;
/// use welore_burn::train::{LoraOptions, add_adapters};
///
/// let device = Device::flex();
/// let layer = LowRankLinearConfig::new(64, 32).with_rank(Some(8)).init(&device);
/// let options = LoraOptions { rank: 2, ..LoraOptions::default() };
/// let adapted = add_adapters(layer.clone(), &Selection::all(), &options)?;
/// assert_eq!(adapted.rank(), Some(8));
/// assert_eq!(adapted.num_params(), layer.num_params() + 2 * (64 + 32));
/// let merged = adapted.materialize();
/// assert_eq!(merged.rank(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn add_adapters<M: Module>(
    module: M,
    selection: &Selection,
    options: &LoraOptions,
) -> Result<M, TrainError> {
    Trainable::Lora.check(&TrainOptions { lora: *options, ..TrainOptions::default() })?;
    let all = matrices(&module);
    let names: Vec<&str> = all.iter().map(|matrix| matrix.name.as_str()).collect();
    let unmatched = selection.unmatched(&names);
    if !unmatched.is_empty() {
        return Err(TrainError::UnmatchedPattern { patterns: unmatched.join("`, `") });
    }
    let selected = all.iter().filter(|matrix| selection.matches(matrix.name.as_str()));
    let selected: Vec<&LiveMatrix> = selected.collect();
    if selected.is_empty() {
        return Err(TrainError::NothingSelected);
    }
    if let Some(matrix) = selected.iter().find(|matrix| matrix.has_adapter()) {
        let name = matrix.name.clone();
        return Err(TrainError::Form { name, source: FormError::Adapted });
    }
    if let Some(matrix) = selected.iter().find(|matrix| matrix.form.is_packed()) {
        let name = matrix.name.clone();
        return Err(TrainError::Form { name, source: FormError::NotDense });
    }
    check_rank(options.rank, selected.iter().map(|matrix| matrix.shape))?;
    let names: BTreeSet<MatrixName> = selected.iter().map(|matrix| matrix.name.clone()).collect();
    Ok(attach_adapters(module, &names, options.rank, options.alpha))
}

/// Refuses a rank above the smallest side of matrices of these shapes.
pub(super) fn check_rank(
    rank: usize,
    shapes: impl Iterator<Item = [usize; 2]>,
) -> Result<(), TrainError> {
    let full = shapes.flatten().min().unwrap_or(0);
    if rank <= full {
        return Ok(());
    }
    let reason = format!("is larger than {full}, the full rank of the smallest matrix");
    Err(TrainError::Option { name: "lora.rank", reason })
}
