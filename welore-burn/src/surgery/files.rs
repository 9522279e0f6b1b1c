use std::borrow::Cow;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::checkpoint::{
    Checkpoint, CheckpointError, FactorNames, OutputDir, PLAN_FILE, ShardWriter, copy_companions,
    encode_floats, write_file,
};
use crate::linalg::{LinalgError, balanced_factors};
use crate::plan::{MatrixPlan, RankPlan};
use crate::progress::{Interrupted, Progress};
use crate::workers::Workers;

use super::module::{FactoredMatrix, SurgeryReport};

/// Why a plan cannot be carried out on a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Reading or writing failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The plan does not belong to these weights.
    #[error("the plan was made for another model: {reason}")]
    ForeignPlan {
        /// How that shows.
        reason: String,
    },
    /// The checkpoint is factored already.
    #[error("`{0}` is factored already; compress the dense model")]
    Factored(String),
    /// The checkpoint has no factored matrix to merge.
    #[error("{dir}: no matrix is factored, so the model is dense already", dir = dir.display())]
    NotFactored {
        /// The model directory.
        dir: PathBuf,
    },
    /// The decomposition failed.
    #[error("`{name}`: {source}")]
    Linalg {
        /// Name of the matrix.
        name: String,
        /// Why.
        source: LinalgError,
    },
}

impl From<Interrupted> for FilesError {
    fn from(interrupted: Interrupted) -> Self {
        Self::Checkpoint(interrupted.into())
    }
}

impl FilesError {
    /// Names the output directory by its target, not by where it is prepared.
    fn about(self, output: &OutputDir) -> Self {
        match self {
            Self::Checkpoint(error) => Self::Checkpoint(output.name_target(error)),
            other => other,
        }
    }
}

/// Checks that a plan belongs to a checkpoint: every matrix is there, dense, of the planned
/// shape and type, and, where the plan carries digests, of the very bytes it was made for.
///
/// # Errors
///
/// [`FilesError::ForeignPlan`], [`FilesError::Factored`].
pub fn check_plan(checkpoint: &Checkpoint, plan: &RankPlan) -> Result<(), FilesError> {
    for matrix in &plan.matrices {
        let foreign = |reason: String| FilesError::ForeignPlan { reason };
        let (name, tensor) = (&matrix.name, weight_of(matrix));
        if checkpoint.meta(&FactorNames::of(name).v).is_some() {
            return Err(FilesError::Factored(name.clone()));
        }
        let Some(meta) = checkpoint.meta(&tensor) else {
            return Err(foreign(format!("there is no `{tensor}`")));
        };
        if meta.shape != matrix.shape || meta.dtype != matrix.dtype {
            return Err(foreign(format!(
                "`{tensor}` is {} {:?}, the plan says {} {:?}",
                meta.dtype, meta.shape, matrix.dtype, matrix.shape
            )));
        }
    }
    for matrix in &plan.matrices {
        let tensor = weight_of(matrix);
        if let Some(digest) = &matrix.digest
            && *digest != checkpoint.digest(&tensor)?
        {
            let reason = format!("`{tensor}` has other weights than the plan was made for");
            return Err(FilesError::ForeignPlan { reason });
        }
    }
    Ok(())
}

/// Writes the compressed checkpoint: low-rank components of the plan as `X.V.weight` and
/// `X.U.weight` in the matrix's own type, every other tensor byte for byte.
///
/// Call [`check_plan`] first. As many matrices are decomposed at a time as there are cores.
///
/// # Errors
///
/// [`FilesError`].
pub fn factor_checkpoint<'data>(
    checkpoint: &'data Checkpoint,
    plan: &RankPlan,
    writer: &mut ShardWriter<'data>,
    progress: &mut dyn Progress,
) -> Result<SurgeryReport, FilesError> {
    progress.begin("factoring", plan.low_rank().count());
    let mut report = SurgeryReport { factored: Vec::new() };
    let planned =
        |tensor: &str| tensor.strip_suffix(".weight").and_then(|name| plan.find_low_rank(name));
    let mut waiting: VecDeque<&MatrixPlan> = checkpoint.names().filter_map(planned).collect();
    let mut ready = VecDeque::new();
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let workers = Workers::new(cores);
    for tensor in checkpoint.names() {
        let Some(matrix) = planned(tensor) else {
            checkpoint.check_finite(tensor)?;
            let (meta, bytes) = checkpoint.raw(tensor)?;
            writer.add(tensor, meta.dtype, &meta.shape, Cow::Borrowed(bytes))?;
            continue;
        };
        if ready.is_empty() {
            let next: Vec<_> = waiting.drain(..cores.get().min(waiting.len())).collect();
            ready = factor(checkpoint, &next, &workers, progress)?;
        }
        let factored = ready.pop_front().expect("planned tensors come in one order");
        for (tensor, shape, data) in factored.tensors {
            writer.add(tensor, matrix.dtype, &shape, Cow::Owned(data))?;
        }
        report.factored.push(factored.matrix);
    }
    Ok(report)
}

/// A factored matrix, encoded.
struct Factored {
    matrix: FactoredMatrix,
    tensors: [(String, [usize; 2], Vec<u8>); 2],
}

/// Factors a few matrices at the same time; they come out in their order.
fn factor(
    checkpoint: &Checkpoint,
    matrices: &[&MatrixPlan],
    workers: &Workers,
    progress: &mut dyn Progress,
) -> Result<VecDeque<Factored>, FilesError> {
    let mut results: Vec<_> = matrices.iter().map(|_| None).collect();
    let mut outcome = Ok(());
    workers.spread(
        matrices.len(),
        |index| factor_one(checkpoint, matrices[index]),
        |index, result| {
            results[index] = Some(result);
            if outcome.is_ok() {
                outcome = progress.step(&matrices[index].name);
            }
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        },
    );
    outcome.map_err(CheckpointError::Interrupted)?;
    results.into_iter().flatten().collect()
}

fn factor_one(checkpoint: &Checkpoint, matrix: &MatrixPlan) -> Result<Factored, FilesError> {
    let (name, rank) = (matrix.name.clone(), matrix.rank);
    let dense = checkpoint.read_matrix(&weight_of(matrix))?;
    let factors = balanced_factors(&dense, rank)
        .map_err(|source| FilesError::Linalg { name: name.clone(), source })?;
    let names = FactorNames::of(&name);
    let [d_output, d_input] = matrix.shape;
    let encode = |tensor: String, shape, values: &[f64]| -> Result<_, FilesError> {
        let data = encode_floats(&tensor, values, matrix.dtype)?;
        Ok((tensor, shape, data))
    };
    let tensors = [
        encode(names.v, [rank, d_input], &factors.right)?,
        encode(names.u, [d_output, rank], &factors.left)?,
    ];
    let matrix = FactoredMatrix { name, rank, relative_error: factors.relative_error };
    Ok(Factored { matrix, tensors })
}

/// Writes the dense checkpoint of a factored one: `X.weight = U · V`, multiplied in f64 and
/// stored in the factors' type, every other tensor byte for byte.
///
/// # Errors
///
/// [`FilesError`], [`FilesError::NotFactored`] among them.
pub fn merge_checkpoint<'data>(
    checkpoint: &'data Checkpoint,
    writer: &mut ShardWriter<'data>,
    progress: &mut dyn Progress,
) -> Result<(), FilesError> {
    let factored = checkpoint.names().filter_map(FactorNames::matrix_of_v).count();
    if factored == 0 {
        return Err(FilesError::NotFactored { dir: checkpoint.dir().into() });
    }
    progress.begin("merging", factored);
    for tensor in checkpoint.names() {
        if let Some(name) = FactorNames::matrix_of_v(tensor) {
            progress.step(name)?;
            merge(checkpoint, name, writer)?;
        } else if !is_u_factor(checkpoint, tensor) {
            checkpoint.check_finite(tensor)?;
            let (meta, bytes) = checkpoint.raw(tensor)?;
            writer.add(tensor, meta.dtype, &meta.shape, Cow::Borrowed(bytes))?;
        }
    }
    Ok(())
}

fn merge(
    checkpoint: &Checkpoint,
    name: &str,
    writer: &mut ShardWriter<'_>,
) -> Result<(), FilesError> {
    let names = FactorNames::of(name);
    let dtype = checkpoint.raw(&names.v)?.0.dtype;
    let (v, u) = (checkpoint.read_matrix(&names.v)?, checkpoint.read_matrix(&names.u)?);
    let product =
        u.product(&v).map_err(|source| FilesError::Linalg { name: name.into(), source })?;
    let tensor = format!("{name}.weight");
    let data = encode_floats(&tensor, product.data(), dtype)?;
    writer.add(tensor, dtype, &[product.rows(), product.cols()], Cow::Owned(data))?;
    Ok(())
}

fn is_u_factor(checkpoint: &Checkpoint, tensor: &str) -> bool {
    tensor
        .strip_suffix(".U.weight")
        .is_some_and(|name| checkpoint.meta(&FactorNames::of(name).v).is_some())
}

/// Writes a compressed model directory: factored weights, configuration, tokenizer, plan.
///
/// `output` is left to the caller to commit, so more files can be added first.
///
/// # Errors
///
/// [`FilesError`]; the plan is checked before anything is written.
pub fn compress_directory(
    checkpoint: &Checkpoint,
    plan: &RankPlan,
    output: &OutputDir,
    shard_bytes: u64,
    progress: &mut dyn Progress,
) -> Result<SurgeryReport, FilesError> {
    check_plan(checkpoint, plan)?;
    let mut write = || -> Result<SurgeryReport, FilesError> {
        let mut writer = ShardWriter::new(output.path(), shard_bytes);
        let report = factor_checkpoint(checkpoint, plan, &mut writer, progress)?;
        writer.finish()?;
        copy_companions(checkpoint.dir(), output.path())?;
        write_file(output.path().join(PLAN_FILE), plan.to_json().as_bytes())?;
        Ok(report)
    };
    write().map_err(|error| error.about(output))
}

/// Writes a plain dense model directory from a factored one; the plan stays behind.
///
/// # Errors
///
/// [`FilesError`].
pub fn merge_directory(
    checkpoint: &Checkpoint,
    output: &OutputDir,
    shard_bytes: u64,
    progress: &mut dyn Progress,
) -> Result<(), FilesError> {
    let mut write = || -> Result<(), FilesError> {
        let mut writer = ShardWriter::new(output.path(), shard_bytes);
        merge_checkpoint(checkpoint, &mut writer, progress)?;
        writer.finish()?;
        Ok(copy_companions(checkpoint.dir(), output.path())?)
    };
    write().map_err(|error| error.about(output))
}

fn weight_of(matrix: &MatrixPlan) -> String {
    format!("{}.weight", matrix.name)
}
