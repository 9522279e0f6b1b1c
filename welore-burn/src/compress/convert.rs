use std::collections::BTreeMap;

use safetensors::Dtype;

use super::error::CompressError;
use super::expert_stack::stacked;
use super::job::{Job, Work};
use super::options::WriteOptions;
use super::pieces::Piece;
use crate::adapters::LoraAdapter;
use crate::checkpoint::{
    Checkpoint, CheckpointError, PLAN_FILE, StoredMatrix, base_config, check_companions,
    copy_companions, state_compressed,
};
use crate::files::{OutputDir, write_file};
use crate::forms::{Form, Precision, parameters_in};
use crate::model::{ConfigError, with_stored_type};
use crate::plan::{RankPlan, read_plan};
use crate::progress::Progress;
use crate::spectrum::{ModelSize, Norms};
use crate::workers::Budget;

const CONFIG_FILE: &str = "config.json";

/// How [`convert_directory`] changes a model directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conversion {
    /// Whether matrices are merged, so that the result is dense. They are merged in f64.
    pub dense: bool,
    /// The type that all numbers are rounded to, to the nearest, ties to even; `None` for the type
    /// that each tensor has, and a merged matrix the type of its parts.
    pub precision: Option<Precision>,
}

/// Writes a model directory with other tensors: merged, in another type, or both. Tensors that
/// neither concerns, such as integers, are copied byte for byte.
///
/// `config.json` states the new type, and so does the plan of a compressed directory, which is
/// returned; a dense directory has none. A merged model has the `config.json` of its base. All other companions are copied. Memory is bounded as in
/// [`Compressor::directory`](super::Compressor::directory).
///
/// # Errors
///
/// [`CompressError`], such as [`CompressError::NotCompressed`] if there is nothing to merge, and
/// [`CheckpointError::Encoding`] for a number that is too large for the type.
pub fn convert_directory(
    checkpoint: &Checkpoint,
    conversion: Conversion,
    output: &OutputDir,
    options: &WriteOptions,
    progress: &mut dyn Progress,
) -> Result<Option<RankPlan>, CompressError> {
    check_companions(checkpoint.dir())?;
    let pieces = pieces(checkpoint, conversion, None)?;
    let what = if conversion.dense { "merging" } else { "converting" };
    write_pieces(checkpoint, conversion, (what, pieces), (output, options), progress)
}

/// Writes a dense model directory to which an adapter has been added: `W + scale · B A` in f64, rounded
/// to the type of the matrix, or to `precision`. Factored matrices are merged, whether they have an
/// adapter or not. Everything else is as in [`convert_directory`].
///
/// # Errors
///
/// [`CompressError::Adapter`] for an adapter that does not fit, before anything is written, and those of
/// [`convert_directory`].
pub fn merge_adapter(
    checkpoint: &Checkpoint,
    adapter: &LoraAdapter,
    precision: Option<Precision>,
    output: &OutputDir,
    options: &WriteOptions,
    progress: &mut dyn Progress,
) -> Result<(), CompressError> {
    let conversion = Conversion { dense: true, precision };
    check_companions(checkpoint.dir())?;
    let pieces = pieces(checkpoint, conversion, Some(adapter))?;
    let what = "adding the adapter";
    write_pieces(checkpoint, conversion, (what, pieces), (output, options), progress).map(drop)
}

/// Writes the tensors that the pieces make, and what goes with them.
fn write_pieces<'a>(
    checkpoint: &'a Checkpoint,
    conversion: Conversion,
    (what, pieces): (&'static str, Vec<Piece<'a>>),
    (output, options): (&OutputDir, &WriteOptions),
    progress: &mut dyn Progress,
) -> Result<Option<RankPlan>, CompressError> {
    let config = new_config(checkpoint, conversion)?;
    let plan = new_plan(checkpoint, conversion, size_made(checkpoint, &pieces)?)?;
    let write = || -> Result<(), CompressError> {
        let (origin, norms) = (String::new(), Norms::plain());
        let work = Work::new(what, origin, checkpoint, pieces, norms, *options)?;
        let mut job = Job::begin(&work, output)?;
        job.make(what, "tensors", |_| true, progress)?;
        job.finish()?;
        copy_companions(checkpoint.dir(), output.path())?;
        if let Some(config) = &config {
            write_file(output.path().join(CONFIG_FILE), config.as_bytes())?;
        }
        if let Some(plan) = &plan {
            write_file(output.path().join(PLAN_FILE), plan.to_json().as_bytes())?;
        }
        state_compressed(output.path())?;
        Ok(())
    };
    write().map_err(|error| error.about(output))?;
    Ok(plan)
}

/// Writes a dense model directory from a compressed one: [`convert_directory`] with
/// [`Conversion::dense`] and nothing else.
///
/// # Errors
///
/// Those of [`convert_directory`].
pub fn merge_directory(
    checkpoint: &Checkpoint,
    output: &OutputDir,
    options: &WriteOptions,
    progress: &mut dyn Progress,
) -> Result<(), CompressError> {
    let conversion = Conversion { dense: true, precision: None };
    convert_directory(checkpoint, conversion, output, options, progress).map(drop)
}

/// The size of the model that [`convert_directory`] would write.
///
/// # Errors
///
/// [`CompressError::NotCompressed`], and [`CompressError::Oversized`] for a tensor that this
/// machine's memory cannot hold: factors of a few kilobytes can describe a matrix of terabytes.
pub fn converted_size(
    checkpoint: &Checkpoint,
    conversion: Conversion,
) -> Result<ModelSize, CompressError> {
    size_within_budget(checkpoint, &pieces(checkpoint, conversion, None)?)
}

/// The size of the model that [`merge_adapter`] would write.
///
/// # Errors
///
/// [`CompressError::Adapter`], and those of [`converted_size`].
pub fn merged_size(
    checkpoint: &Checkpoint,
    adapter: &LoraAdapter,
    precision: Option<Precision>,
) -> Result<ModelSize, CompressError> {
    let conversion = Conversion { dense: true, precision };
    size_within_budget(checkpoint, &pieces(checkpoint, conversion, Some(adapter))?)
}

/// The size of what the pieces make, if each fits into memory.
fn size_within_budget(
    checkpoint: &Checkpoint,
    pieces: &[Piece<'_>],
) -> Result<ModelSize, CompressError> {
    let norms = Norms::plain();
    let needs = pieces.iter().map(|piece| (piece.name(), piece.cost(checkpoint, &norms).bytes));
    Budget::default().check(needs)?;
    size_made(checkpoint, pieces)
}

/// Whether [`convert_directory`] would write other tensors than those that the directory has.
///
/// # Errors
///
/// Those of [`convert_directory`] about headers and the plan.
pub fn changes_tensors(
    checkpoint: &Checkpoint,
    conversion: Conversion,
) -> Result<bool, CompressError> {
    // What is stored turned is written so.
    let differs = |tensor: &str| checkpoint.is_made(tensor) && !checkpoint.turns(tensor);
    let is_new = |piece: &Piece<'_>| piece.steps() > 0 || matches!(piece, Piece::Stack(_));
    let changes = pieces(checkpoint, conversion, None)?.iter().any(is_new);
    Ok(changes || checkpoint.names().any(differs))
}

/// The size of what the pieces make. Indices are no parameters.
fn size_made(checkpoint: &Checkpoint, pieces: &[Piece<'_>]) -> Result<ModelSize, CompressError> {
    let mut size = ModelSize::default();
    for piece in pieces {
        for tensor in piece.tensors(checkpoint)? {
            let parameters = parameters_in(&tensor.name, tensor.dtype, &tensor.shape);
            size.parameters = size.parameters.saturating_add(parameters);
            size.bytes = size.bytes.saturating_add(tensor.bytes());
        }
    }
    Ok(size)
}

/// Every tensor of the checkpoint, or the matrix that it is merged into, once.
fn pieces<'a>(
    checkpoint: &'a Checkpoint,
    conversion: Conversion,
    adapter: Option<&'a LoraAdapter>,
) -> Result<Vec<Piece<'a>>, CompressError> {
    // Also where nothing is merged, because this checks the plan.
    let compressed = checkpoint.compressed_matrices()?;
    let is_plain = conversion.dense || compressed.is_empty();
    let mut merged = if conversion.dense { compressed } else { Vec::new() };
    if let Some(adapter) = adapter {
        let adapted = adapter.stored_in(checkpoint)?;
        merged.extend(adapted.into_iter().filter(|matrix| matrix.form == Form::dense()));
    }
    if conversion.dense && merged.is_empty() {
        return Err(CompressError::NotCompressed { dir: checkpoint.dir().into() });
    }
    let mut parts = BTreeMap::new();
    for matrix in merged {
        let tensors = matrix.tensors();
        let mut matrix = Some(matrix);
        for tensor in tensors {
            // The first of its tensors represents the matrix.
            parts.insert(tensor.name, matrix.take());
        }
    }
    let merge = |matrix: StoredMatrix| {
        let dtype = conversion.precision.map_or(matrix.dtype, Precision::dtype);
        let more = adapter.and_then(|adapter| adapter.matrices.get(&matrix.name));
        Ok(Piece::Merge(matrix, dtype, more))
    };
    let pieces = checkpoint.names().filter_map(|tensor| match parts.remove(tensor) {
        Some(matrix) => matrix.map(merge),
        None => Some(whole(checkpoint, tensor, conversion.precision)),
    });
    let pieces = pieces.collect::<Result<Vec<_>, CompressError>>()?;
    // A compressed directory has matrices for each expert, which can be compressed one by one.
    Ok(if is_plain { stacked(pieces, checkpoint)? } else { pieces })
}

/// A tensor that is not merged into another one.
pub(super) fn whole<'a>(
    checkpoint: &Checkpoint,
    tensor: &'a str,
    precision: Option<Precision>,
) -> Result<Piece<'a>, CompressError> {
    use Dtype as T;
    let (meta, _) = checkpoint.raw(tensor)?;
    match meta.dtype {
        T::BOOL | T::I8 | T::I16 | T::I32 | T::I64 => Ok(Piece::Integers(tensor)),
        T::U8 | T::U16 | T::U32 | T::U64 => Ok(Piece::Integers(tensor)),
        T::F64 | T::F32 | T::F16 | T::BF16 => Ok(match precision.map(Precision::dtype) {
            Some(dtype) if dtype != meta.dtype => Piece::Cast(tensor, dtype),
            _ => Piece::Copy(tensor),
        }),
        dtype => {
            let (dir, tensor) = (checkpoint.dir().into(), tensor.into());
            Err(CheckpointError::Dtype { dir, tensor, dtype }.into())
        }
    }
}

/// The text of a `config.json` that has to change.
fn new_config(
    checkpoint: &Checkpoint,
    conversion: Conversion,
) -> Result<Option<String>, CompressError> {
    let path = checkpoint.dir().join(CONFIG_FILE);
    let Some(precision) = conversion.precision else { return Ok(None) };
    let Some(bytes) = base_config(checkpoint.dir())? else { return Ok(None) };
    let text = String::from_utf8(bytes).map_err(|_| ConfigError::Json("not UTF-8 text".into()));
    let config = text.and_then(|text| with_stored_type(&text, precision));
    config.map(Some).map_err(|source| CompressError::Config { path, source })
}

/// The plan of the result, which has this size.
fn new_plan(
    checkpoint: &Checkpoint,
    conversion: Conversion,
    size: ModelSize,
) -> Result<Option<RankPlan>, CompressError> {
    if conversion.dense {
        return Ok(None);
    }
    let plan = read_plan(checkpoint.dir())?;
    Ok(plan.map(|plan| match conversion.precision {
        Some(precision) => plan.stored_in(precision, size.bytes),
        // They are those of other numbers.
        None if checkpoint.has_replaced() => plan.without_errors(),
        None => plan,
    }))
}
