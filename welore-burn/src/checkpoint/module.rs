use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, FloatDType, TensorData};
use safetensors::Dtype;

use super::error::{CheckpointError, TensorProblem};
use super::reader::Checkpoint;
use super::shards::{ShardLayout, ShardWriter};
use super::stored::StoredMatrix;
use super::turned::Turned;
use crate::forms::{FormError, LiveMatrix, PartKind, Slot, TensorSpec, matrices, skeleton, slots};
use crate::modules::{MatrixName, Place, load_values, walk};
use crate::progress::Progress;

/// Fills a module's float parameters from a checkpoint, on the parameters' device, each in the
/// type that `dtype_of` gives for its path; norms, and vectors such as biases, in f32. The pivots
/// of its matrices in pivoted storage are those of the checkpoint too, and so are the blocks of
/// packed ones, as they are.
///
/// A parameter's path is the name of its tensor, except that Burn's norm fields have their PyTorch
/// names (`gamma` is `weight`, `beta` is `bias`), and a matrix that is not dense is in the tensors
/// of its form. Weights of `Linear` and `LowRankLinear` are transposed from PyTorch's `[out, in]`.
/// Parameters are replaced one at a time, and lazy ones are never initialized first. Adapters are
/// not in a checkpoint and stay as they are.
///
/// The matrices must already have the forms of the checkpoint: see [`as_stored`] and
/// [`shape_by_plan`](crate::compress::shape_by_plan).
///
/// # Errors
///
/// Those of [`check_module`], before anything is read; [`CheckpointError::Form`] for pivots that are
/// not distinct rows, before weights are read, and for blocks with scales that are not finite; errors
/// of [`Checkpoint::read_f32`];
/// [`CheckpointError::Interrupted`].
pub fn load_module<M: Module>(
    module: M,
    checkpoint: &Checkpoint,
    dtype_of: impl Fn(&str) -> FloatDType,
    progress: &mut dyn Progress,
) -> Result<M, CheckpointError> {
    let slots = checked_slots(&module, checkpoint)?;
    let module = load_indices(module, &slots, checkpoint)?;
    load_numbers(module, slots, checkpoint, dtype_of, progress)
}

/// [`load_module`] for a module to which [`with_forms`] gave the pivots of the checkpoint.
pub(crate) fn load_weights<M: Module>(
    module: M,
    checkpoint: &Checkpoint,
    dtype_of: impl Fn(&str) -> FloatDType,
    progress: &mut dyn Progress,
) -> Result<M, CheckpointError> {
    let slots = checked_slots(&module, checkpoint)?;
    load_numbers(module, slots, checkpoint, dtype_of, progress)
}

/// Gives the matrices of a module the indices that a checkpoint has for them.
fn load_indices<M: Module>(
    module: M,
    slots: &[Slot],
    checkpoint: &Checkpoint,
) -> Result<M, CheckpointError> {
    let indices = slots.iter().filter(|slot| slot.kind == PartKind::Indices);
    let slots: BTreeMap<&str, &Slot> = indices.map(|slot| (slot.path.as_str(), slot)).collect();
    let read = |slot: &Slot, place: &Place, param: &[usize]| {
        // The type of indices does not depend on that of the numbers.
        let bytes = checkpoint.expected_bytes(&slot.spec(Dtype::F32))?;
        slot.load_indices(bytes, param).map_err(checkpoint.form_error(&matrix_of(place, slot)))
    };
    let mut failed = None;
    let module = load_values(module, |place, param| {
        let slot = *slots.get(place.path.as_str())?;
        match read(slot, place, &param.shape()) {
            Ok(data) => Some((data, param.dtype())),
            Err(error) => {
                failed.get_or_insert(error);
                None
            }
        }
    });
    failed.map_or(Ok(module), Err)
}

/// The matrix that a parameter belongs to.
fn matrix_of(place: &Place, slot: &Slot) -> MatrixName {
    place.matrix().unwrap_or_else(|| slot.tensor.as_str().into())
}

/// Fills the float parameters of a module, and the blocks of its packed weights.
fn load_numbers<M: Module>(
    module: M,
    slots: Vec<Slot>,
    checkpoint: &Checkpoint,
    dtype_of: impl Fn(&str) -> FloatDType,
    progress: &mut dyn Progress,
) -> Result<M, CheckpointError> {
    let numbers = slots.into_iter().filter(|slot| slot.kind != PartKind::Indices);
    let slots: BTreeMap<String, Slot> = numbers.map(|slot| (slot.path.clone(), slot)).collect();
    progress.begin("loading", slots.len());
    progress.count_in("tensors");
    let mut failed = None;
    let mut read = |slot: &Slot, place: &Place| -> Result<TensorData, CheckpointError> {
        progress.step(&slot.tensor)?;
        let data = match slot.kind {
            PartKind::Blocks(_) => {
                let bytes = checkpoint.expected_bytes(&slot.spec(Dtype::F32))?;
                slot.load_blocks(bytes).map_err(checkpoint.form_error(&matrix_of(place, slot)))?
            }
            _ => slot.codec.load(checkpoint.read_f32(&slot.tensor)?, &slot.shape),
        };
        checkpoint.release(&slot.tensor);
        Ok(data)
    };
    let module = load_values(module, |place, _| {
        let slot = slots.get(&place.path).filter(|_| failed.is_none())?;
        match read(slot, place) {
            Ok(data) if matches!(slot.kind, PartKind::Blocks(_)) => Some((data, DType::U8)),
            Ok(data) => {
                let is_small = data.shape().len() == 1 || place.is_norm();
                let dtype = if is_small { FloatDType::F32 } else { dtype_of(&place.path) };
                Some((data, DType::from(dtype)))
            }
            Err(error) => {
                failed = Some(error);
                None
            }
        }
    });
    failed.map_or(Ok(()), Err)?;
    checkpoint.check_unchanged()?;
    Ok(module)
}

/// Gives the matrices of a dense module the forms and pivots that they have in a checkpoint, without
/// loading weights: [`load_module`] can then load a compressed checkpoint into it. Initializes
/// nothing.
///
/// # Errors
///
/// Those of [`Checkpoint::compressed_matrices`]; [`CheckpointError::Form`] for invalid indices.
pub fn as_stored<M: Module>(module: M, checkpoint: &Checkpoint) -> Result<M, CheckpointError> {
    with_forms(module, checkpoint, &checkpoint.compressed_matrices()?)
}

/// The same, if the compressed matrices of the checkpoint are already known.
pub(crate) fn with_forms<M: Module>(
    module: M,
    checkpoint: &Checkpoint,
    compressed: &[StoredMatrix],
) -> Result<M, CheckpointError> {
    let mut forms = BTreeMap::new();
    for matrix in compressed {
        let indices = checkpoint.read_all_indices(matrix)?;
        forms.insert(&matrix.name, (matrix.form, indices));
    }
    skeleton(module, |name| forms.get(name).cloned()).map_err(about(checkpoint.dir()))
}

/// Checks that a checkpoint has exactly the tensors of a module, with the same shapes. Reads and
/// initializes nothing.
///
/// # Errors
///
/// [`CheckpointError::Mismatch`] with every missing, unused and misshaped tensor;
/// [`CheckpointError::Form`] for weights whose layout is transposed in records.
pub fn check_module<M: Module>(module: &M, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    checked_slots(module, checkpoint).map(drop)
}

fn checked_slots(
    module: &impl Module,
    checkpoint: &Checkpoint,
) -> Result<Vec<Slot>, CheckpointError> {
    let dir = checkpoint.dir();
    let slots = slots(module).map_err(about(dir))?;
    let problems = compare(&slots, checkpoint);
    match problems.is_empty() {
        true => Ok(slots),
        false => Err(CheckpointError::Mismatch { dir: dir.into(), problems }),
    }
}

fn about(dir: &Path) -> impl FnOnce((MatrixName, FormError)) -> CheckpointError {
    let dir = dir.into();
    move |(matrix, source)| CheckpointError::Form { dir, matrix, source }
}

/// Writes a module's parameters into a directory under the names that [`load_module`] reads, each
/// in the type that `dtype_of` gives for its tensor. Only one parameter at a time is on the host.
///
/// # Errors
///
/// [`CheckpointError::File`] when writing fails, [`CheckpointError::Encoding`] when a value does
/// not fit its type, [`CheckpointError::Form`], also for a matrix with an adapter, which these names
/// have no place for (`materialize` merges it), [`CheckpointError::Interrupted`].
pub fn save_module<M: Module>(
    module: &M,
    dir: &Path,
    dtype_of: impl Fn(&str) -> Dtype,
    shard_bytes: u64,
    progress: &mut dyn Progress,
) -> Result<(), CheckpointError> {
    if let Some(matrix) = matrices(module).into_iter().find(LiveMatrix::has_adapter) {
        return Err(about(dir)((matrix.name, FormError::Adapted)));
    }
    let slots = slots(module).map_err(about(dir))?;
    let spec = |slot: &Slot| slot.spec(dtype_of(&slot.tensor));
    let specs: Vec<TensorSpec> = slots.iter().map(spec).collect();
    let turned = slots.iter().filter(|slot| slot.turned).map(|slot| slot.tensor.as_str());
    let layout = ShardLayout::shaped(&specs, shard_bytes, &Turned::of(turned).into())?;
    let writer = ShardWriter::new(dir, &layout)?;
    progress.begin("saving", slots.len());
    progress.count_in("tensors");
    let places: BTreeMap<&str, usize> =
        slots.iter().enumerate().map(|(place, slot)| (slot.path.as_str(), place)).collect();
    let mut outcome = Ok(());
    walk(module, |place, param| {
        let Some(place) = places.get(place.path.as_str()).filter(|_| outcome.is_ok()) else {
            return;
        };
        let (slot, spec) = (&slots[*place], &specs[*place]);
        outcome = progress.step(&slot.tensor).map_err(CheckpointError::from).and_then(|()| {
            let data = encoded(slot, param.values(), spec.dtype)?;
            writer.write(&slot.tensor, &data)
        });
    });
    outcome?;
    writer.finish()
}

/// The bytes of a tensor for the value of its parameter.
fn encoded(slot: &Slot, values: TensorData, dtype: Dtype) -> Result<Vec<u8>, CheckpointError> {
    let tensor = || slot.tensor.clone();
    slot.store(values)
        .map_err(|source| CheckpointError::Linalg { tensor: tensor(), source })?
        .encode(dtype)
        .map_err(|source| CheckpointError::Encoding { tensor: tensor(), source })
}

fn compare(expected: &[Slot], checkpoint: &Checkpoint) -> Vec<TensorProblem> {
    let wanted: BTreeSet<&str> = expected.iter().map(|slot| slot.tensor.as_str()).collect();
    let unused: Vec<&str> = checkpoint.names().filter(|name| !wanted.contains(name)).collect();
    let (mut problems, mut comparisons) = (Vec::new(), MOST_COMPARISONS);
    for slot in expected {
        match checkpoint.meta(&slot.tensor) {
            None => {
                let rest = comparisons.checked_sub(unused.len());
                let similar = rest.and_then(|_| most_similar(&slot.tensor, &unused));
                comparisons = rest.unwrap_or(comparisons);
                problems.push(TensorProblem::Missing { tensor: slot.tensor.clone(), similar });
            }
            Some(meta)
                if meta.shape != slot.shape
                    && !checkpoint.has_in_file(&slot.tensor, &slot.shape) =>
            {
                problems.push(TensorProblem::Shape {
                    tensor: slot.tensor.clone(),
                    expected: slot.shape.clone(),
                    found: meta.shape.clone(),
                });
            }
            Some(_) => {}
        }
    }
    problems
        .extend(unused.iter().map(|tensor| TensorProblem::Unused { tensor: tensor.to_string() }));
    problems
}

/// How often a missing name is compared with an unused one. A misspelt name is one of few; comparing
/// all with all would take hours where a hostile header has a million.
const MOST_COMPARISONS: usize = 100_000;

/// The candidate most similar to `name`, if one is similar at all.
fn most_similar(name: &str, candidates: &[&str]) -> Option<String> {
    // Names of very different lengths are not similar, and may be long.
    let alike = candidates.iter().filter(|candidate| candidate.len() < 2 * name.len());
    alike
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.9)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_string())
}
