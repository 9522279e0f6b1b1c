//! What matrices cost in each type.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::{DType, FloatDType, TensorData};

use super::cache::CostCache;
use super::error::TypesError;
use super::rounding::{Inputs, Rounding};
use crate::calibrate::{Calibration, is_tied};
use crate::checkpoint::Checkpoint;
use crate::eval::{PerplexityOptions, divergence};
use crate::ggml::{ALIGNMENT, QuantizeError, TensorType};
use crate::linalg::{LinalgError, loss_of_error, transpose};
use crate::model::{LanguageModel, TokenMatrix};
use crate::modules::{MatrixName, load_values};
use crate::named::Named;
use crate::progress::{Part, Progress};
use crate::workers::Budget;

/// What a tensor costs in a type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TypeCost {
    /// The type.
    pub tensor_type: TensorType,
    /// Bytes that the tensor takes in a file, with the padding behind it.
    pub bytes: u64,
    /// Estimated rise of the loss, in nats per token.
    pub loss: f64,
}

/// What a tensor costs in each type that it may have.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorCosts {
    /// Hugging Face name of the tensor.
    pub tensor: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// BLAKE3 digest of its type, shape and bytes in the model.
    pub digest: String,
    /// Its types, in any order.
    pub candidates: Vec<TypeCost>,
}

impl TensorCosts {
    /// With all losses times a scale, such as that of [`measure_scale`](super::measure_scale).
    pub fn scaled(mut self, scale: f64) -> Self {
        self.candidates.iter_mut().for_each(|cost| cost.loss *= scale);
        self
    }
}

/// How costs are measured.
#[derive(Debug, Clone)]
pub struct CostOptions {
    /// The types that may be used. Those whose blocks the rows of a matrix do not fill are left
    /// out.
    pub types: Vec<TensorType>,
    /// How matrices are rounded.
    pub rounding: Rounding,
    /// How many matrices may be in flight at once, and in how much memory.
    pub budget: Budget,
    /// Number of windows of the calibration's text on which embedding and head are measured, at most.
    pub windows: usize,
    /// The number of these windows that are computed at the same time.
    pub at_once: NonZeroUsize,
    /// The type that the model computes in, for the cache.
    pub dtype: FloatDType,
    /// Directory in which costs are cached by what they depend on, so that another budget measures
    /// nothing. It need not exist. A damaged file in it is ignored and rewritten; a directory that
    /// cannot be written is not an error.
    pub cache: Option<PathBuf>,
}

/// The costs of matrices whose inputs and output gradients a calibration has, from what really is
/// stored in each type.
///
/// # Errors
///
/// [`TypesError`]; [`CalibrationError::NoGradients`](crate::calibrate::CalibrationError) for a
/// calibration of inputs alone.
pub fn measure_types(
    checkpoint: &Checkpoint,
    calibration: &Calibration,
    names: &[MatrixName],
    options: &CostOptions,
    progress: &mut dyn Progress,
) -> Result<Vec<TensorCosts>, TypesError> {
    let shapes = names
        .iter()
        .map(|name| {
            let shape = checkpoint.matrix_shape(&name.weight())?;
            calibration.check_shape(name, shape)?;
            Ok(shape)
        })
        .collect::<Result<Vec<_>, TypesError>>()?;
    let needs: Vec<u64> = shapes.iter().map(|shape| memory(*shape)).collect();
    let items = names.iter().map(MatrixName::as_str).zip(needs.iter().copied());
    options.budget.check(items)?;
    let operations: Vec<u64> = shapes.iter().map(|shape| work(*shape)).collect();
    progress.begin_work("costs of types", names.len(), operations.iter().sum());
    let mut found: Vec<Option<TensorCosts>> = names.iter().map(|_| None).collect();
    options.budget.workers().try_spread_within(
        options.budget.memory,
        &needs,
        |index| costs_of(checkpoint, calibration, &names[index], options),
        |index, (costs, known)| -> Result<(), TypesError> {
            found[index] = Some(costs);
            let (item, operations) = (names[index].as_str(), operations[index]);
            Ok(progress.part(Part { item, steps: 1, operations, known })?)
        },
    )?;
    checkpoint.check_unchanged()?;
    Ok(found.into_iter().flatten().collect())
}

/// Bytes that a matrix needs while it is in flight: its entries, what is stored, the errors and
/// their products in f64, and both second moments.
fn memory([rows, columns]: [usize; 2]) -> u64 {
    let [m, n] = [rows as u64, columns as u64];
    m.saturating_mul(n).saturating_mul(40).saturating_add(16 * (m * m + n * n))
}

/// Number of products of numbers.
fn work([rows, columns]: [usize; 2]) -> u64 {
    let [m, n] = [rows as u64, columns as u64];
    m.saturating_mul(n).saturating_mul(m + n)
}

/// The costs of a matrix, and whether they were known before.
fn costs_of(
    checkpoint: &Checkpoint,
    calibration: &Calibration,
    name: &MatrixName,
    options: &CostOptions,
) -> Result<(TensorCosts, bool), TypesError> {
    let tensor = name.weight();
    let shape = checkpoint.matrix_shape(&tensor)?;
    let digest = checkpoint.digest(&tensor)?;
    calibration.check(name, &digest)?;
    let rounding = options.rounding.key();
    let key = format!("{digest} {name} {} {rounding}", calibration.digest());
    let cache = options.cache.as_deref().map(CostCache::new);
    if let Some(candidates) = known(cache.as_ref(), &key, shape, &options.types) {
        checkpoint.release(&tensor);
        return Ok((TensorCosts { tensor, shape, digest, candidates }, true));
    }
    let entries = checkpoint.read_f32(&tensor)?;
    checkpoint.release(&tensor);
    let linalg = |source: LinalgError| TypesError::Linalg { tensor: tensor.clone(), source };
    let (inputs, outputs) = (calibration.inputs(name)?, calibration.outputs(name)?);
    let rounding = Inputs::of(&inputs, Some(&outputs), options.rounding).map_err(linalg)?;
    let costs = costs_in(shape, &options.types, |tensor_type| {
        let stored = stored(&rounding, tensor_type, &entries, shape[1])
            .map_err(|source| TypesError::Quantize { tensor: tensor.clone(), source })?;
        let error: Vec<f32> = stored.iter().zip(&entries).map(|(new, old)| new - old).collect();
        loss_of_error(&error, &inputs, Some(&outputs)).map_err(linalg)
    })?;
    if let Some(cache) = cache {
        cache.keep(&key, named(&costs));
    }
    Ok((TensorCosts { tensor, shape, digest, candidates: costs }, false))
}

/// The costs that a cache has for all types that a matrix can have.
fn known(
    cache: Option<&CostCache>,
    key: &str,
    shape: [usize; 2],
    types: &[TensorType],
) -> Option<Vec<TypeCost>> {
    let possible: Vec<(TensorType, u64)> = candidates(shape, types).collect();
    let of_types: Vec<String> = possible.iter().map(|(of, _)| of.name().to_string()).collect();
    let losses = cache?.find(key, &of_types)?;
    let cost = |((tensor_type, bytes), loss)| TypeCost { tensor_type, bytes, loss };
    Some(possible.into_iter().zip(losses).map(cost).collect())
}

/// Losses by the names of their types, for the cache.
fn named(costs: &[TypeCost]) -> Vec<(String, f64)> {
    costs.iter().map(|cost| (cost.tensor_type.name().to_string(), cost.loss)).collect()
}

/// The types that a matrix `[out, in]` can have, and the bytes that it takes in each, with the padding
/// behind it.
pub fn candidates(
    [rows, columns]: [usize; 2],
    types: &[TensorType],
) -> impl Iterator<Item = (TensorType, u64)> + '_ {
    types.iter().filter_map(move |dtype| {
        let row = dtype.row_bytes(columns)?;
        Some((*dtype, ((row * rows) as u64).next_multiple_of(ALIGNMENT as u64)))
    })
}

/// The costs in the types that can hold the numbers of a matrix, of which there has to be one.
fn costs_in(
    shape: [usize; 2],
    types: &[TensorType],
    mut loss_in: impl FnMut(TensorType) -> Result<f64, TypesError>,
) -> Result<Vec<TypeCost>, TypesError> {
    let (mut costs, mut too_large) = (Vec::new(), None);
    for (tensor_type, bytes) in candidates(shape, types) {
        match loss_in(tensor_type) {
            Ok(loss) => costs.push(TypeCost { tensor_type, bytes, loss }),
            Err(error) if error.is_overflow() => too_large = Some(error),
            Err(error) => return Err(error),
        }
    }
    match too_large.filter(|_| costs.is_empty()) {
        Some(error) => Err(error),
        None => Ok(costs),
    }
}

/// The numbers that a type stores in place of these.
pub(super) fn stored(
    inputs: &Inputs,
    tensor_type: TensorType,
    entries: &[f32],
    columns: usize,
) -> Result<Vec<f32>, QuantizeError> {
    let bytes = inputs.quantize(tensor_type, entries, columns)?;
    tensor_type.dequantize_rows(&bytes, columns)
}

/// The tensors of embedding and head of a model, in this order.
pub fn token_matrices(checkpoint: &Checkpoint) -> Vec<String> {
    let of = |matrix| checkpoint.names().filter(move |name| TokenMatrix::of(name) == Some(matrix));
    let both = of(TokenMatrix::Embedding).chain(of(TokenMatrix::Head));
    both.map(String::from).collect()
}

/// What [`measure_alone`] depends on, for the cache. The calibration knows the rest of the model.
pub(super) fn key_alone(
    digest: &str,
    tensor: &str,
    calibration: &Calibration,
    options: &CostOptions,
) -> String {
    let (rounding, windows) = (options.rounding.key(), options.windows);
    let computed = match options.dtype {
        FloatDType::F32 => String::new(),
        other => format!(" in {other:?}"),
    };
    format!("{digest} {tensor} {} {windows} windows {rounding}{computed}", calibration.digest())
}

/// The costs of a tensor that [`measure_alone`] has measured before, if the cache still has them: it
/// takes no model to find them.
///
/// # Errors
///
/// [`TypesError::Checkpoint`].
pub fn known_alone(
    checkpoint: &Checkpoint,
    tensor: &str,
    calibration: &Calibration,
    options: &CostOptions,
) -> Result<Option<TensorCosts>, TypesError> {
    let (shape, digest) = (checkpoint.matrix_shape(tensor)?, checkpoint.digest(tensor)?);
    let key = key_alone(&digest, tensor, calibration, options);
    let cache = options.cache.as_deref().map(CostCache::new);
    let candidates = known(cache.as_ref(), &key, shape, &options.types);
    Ok(candidates.map(|candidates| TensorCosts {
        tensor: tensor.into(),
        shape,
        digest,
        candidates,
    }))
}

/// The costs of a tensor, measured: the mean KL divergence from the model on the text of a
/// calibration, with that tensor alone in each type.
///
/// # Errors
///
/// [`TypesError`].
pub fn measure_alone<M: LanguageModel + Module + Clone>(
    model: &M,
    checkpoint: &Checkpoint,
    tensor: &str,
    calibration: &Calibration,
    options: &CostOptions,
    progress: &mut dyn Progress,
) -> Result<TensorCosts, TypesError> {
    if let Some(costs) = known_alone(checkpoint, tensor, calibration, options)? {
        return Ok(costs);
    }
    let (shape, digest) = (checkpoint.matrix_shape(tensor)?, checkpoint.digest(tensor)?);
    let entries = checkpoint.read_f32(tensor)?;
    let inputs = match calibration.token_rows(tensor, is_tied(checkpoint))? {
        None => Inputs::Unknown,
        Some(moment) => Inputs::of(&moment, None, options.rounding)
            .map_err(|source| TypesError::Linalg { tensor: tensor.into(), source })?,
    };
    let about = |source| TypesError::Quantize { tensor: tensor.into(), source };
    let costs = costs_in(shape, &options.types, |tensor_type| {
        let bytes = inputs.quantize_in_tiles(tensor_type, &entries, shape[1], progress, about)?;
        let stored = tensor_type.dequantize_rows(&bytes, shape[1]).map_err(about)?;
        let changed = with_values(model.clone(), tensor, stored, shape);
        divergence_on_first(&changed, model, calibration, options, progress)
    })?;
    if let Some(cache) = options.cache.as_deref().map(CostCache::new) {
        let key = key_alone(&digest, tensor, calibration, options);
        cache.keep(&key, named(&costs));
    }
    Ok(TensorCosts { tensor: tensor.into(), shape, digest, candidates: costs })
}

/// The mean KL divergence of a changed model from the dense one, in nats per token, on the first windows
/// of a calibration's text, as many as the options say.
pub(super) fn divergence_on_first<M: LanguageModel>(
    changed: &M,
    dense: &M,
    calibration: &Calibration,
    options: &CostOptions,
    progress: &mut dyn Progress,
) -> Result<f64, TypesError> {
    let text: Vec<Vec<u32>> = calibration.windows()?.into_iter().take(options.windows).collect();
    let seq_len = text.first().map_or(0, Vec::len);
    let at_once = options.at_once;
    let measuring = PerplexityOptions { seq_len, at_once, ..PerplexityOptions::default() };
    Ok(divergence(changed, dense, &text.concat(), &measuring, progress)?.kl.value)
}

/// The model with other numbers in a matrix.
pub(super) fn with_values<M: Module>(
    model: M,
    tensor: &str,
    values: Vec<f32>,
    shape: [usize; 2],
) -> M {
    load_values(model, |place, param| {
        (place.path == tensor).then(|| {
            let [rows, columns] = shape;
            let data = match place.is_linear() {
                true => TensorData::new(transpose(&values, rows, columns), [columns, rows]),
                false => TensorData::new(values.clone(), shape),
            };
            let dtype: DType = param.dtype();
            (data, dtype)
        })
    })
}
