use std::ops::ControlFlow;
use std::path::PathBuf;

use super::module::{FactoredMatrix, SurgeryReport};
use super::pieces::Piece;
use super::stream::{Work, carry_out};
use crate::calibrate::{Calibration, CalibrationError};
use crate::checkpoint::{
    Checkpoint, CheckpointError, DEFAULT_SHARD_BYTES, FactorNames, OutputDir, PLAN_FILE,
    copy_companions, write_file,
};
use crate::linalg::LinalgError;
use crate::plan::{MatrixPlan, RankPlan};
use crate::progress::{Interrupted, Progress};
use crate::spectrum::{ModelSize, Norms};
use crate::workers::{Budget, Oversized, Workers, cores};

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
    /// A matrix does not fit the memory that may be used.
    #[error(transparent)]
    Oversized(#[from] Oversized),
    /// The calibration cannot be used.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
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
    // Every byte is read: all cores at it, and no more of the file in memory than they hash.
    let mut outcome = Ok(());
    Workers::new(cores()).spread(
        plan.matrices.len(),
        |index| check_digest(checkpoint, &plan.matrices[index]),
        |_, result| match result {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                outcome = Err(error);
                ControlFlow::Break(())
            }
        },
    );
    outcome
}

/// Checks that a calibration was measured on the weights that a plan is for, as far as that is
/// known.
///
/// # Errors
///
/// [`CalibrationError::Foreign`].
pub fn check_calibration(
    plan: &RankPlan,
    calibration: &Calibration,
) -> Result<(), CalibrationError> {
    for matrix in plan.matrices.iter().filter(|matrix| matrix.low_rank) {
        if let Some(digest) = &matrix.digest {
            calibration.check(&matrix.name, digest)?;
        }
    }
    Ok(())
}

fn check_digest(checkpoint: &Checkpoint, matrix: &MatrixPlan) -> Result<(), FilesError> {
    let Some(digest) = &matrix.digest else { return Ok(()) };
    let tensor = weight_of(matrix);
    let found = checkpoint.digest(&tensor)?;
    checkpoint.release(&tensor);
    if *digest == found {
        return Ok(());
    }
    let reason = format!("`{tensor}` has other weights than the plan was made for");
    Err(FilesError::ForeignPlan { reason })
}

/// How a model directory is written.
#[derive(Debug, Clone, Copy)]
pub struct WriteSettings<'a> {
    /// The norm in which the factors of every matrix are best; that of the weights by default.
    pub norms: Norms<'a>,
    /// How many matrices are in flight at once, in how much memory.
    pub budget: Budget,
    /// A shard is closed at about so many bytes.
    pub shard_bytes: u64,
}

impl Default for WriteSettings<'_> {
    fn default() -> Self {
        let (norms, budget) = (Norms::plain(), Budget::default());
        Self { norms, budget, shard_bytes: DEFAULT_SHARD_BYTES }
    }
}

/// Writes a compressed model directory: low-rank components of the plan as [`FactorNames`] says,
/// in the matrix's own type, every other tensor byte for byte, configuration,
/// tokenizer, plan.
///
/// Every tensor is written to its place in its shard as soon as it is there, so memory is
/// bounded by the matrices in flight ([`Budget`]), neither by the model nor by a shard.
///
/// In a [`resumable`](OutputDir::resumable) directory finished matrices outlive the process, and
/// the same call again goes on from them, to the same bytes. They are checked first, by the
/// digests of what they were made from and of what was written.
///
/// `output` is left to the caller to commit, so more files can be added first.
///
/// # Errors
///
/// [`FilesError`]; the plan and the budget are checked before anything is written.
pub fn compress_directory(
    checkpoint: &Checkpoint,
    plan: &RankPlan,
    output: &OutputDir,
    settings: &WriteSettings<'_>,
    progress: &mut dyn Progress,
) -> Result<SurgeryReport, FilesError> {
    check_plan(checkpoint, plan)?;
    if let Some(calibration) = settings.norms.calibration() {
        check_calibration(plan, calibration)?;
    }
    let pieces = checkpoint
        .names()
        .map(|tensor| {
            let name = tensor.strip_suffix(".weight");
            match name.and_then(|name| plan.find_low_rank(name)) {
                Some(matrix) => Piece::Factor(matrix),
                None => Piece::Copy(tensor),
            }
        })
        .collect();
    let plan_text = plan.to_json();
    let origin = format!("{plan_text}{}", settings.norms.identity().unwrap_or_default());
    let work = Work { what: "factoring", origin: &origin, checkpoint, pieces, settings };
    let mut write = || -> Result<SurgeryReport, FilesError> {
        let errors = carry_out(&work, output, progress)?;
        copy_companions(checkpoint.dir(), output.path())?;
        write_file(output.path().join(PLAN_FILE), plan_text.as_bytes())?;
        let factored = work.pieces.iter().zip(errors).filter_map(|(piece, error)| match piece {
            Piece::Factor(matrix) => Some(FactoredMatrix {
                name: matrix.name.clone(),
                rank: matrix.rank,
                relative_error: error?,
            }),
            _ => None,
        });
        Ok(SurgeryReport { factored: factored.collect() })
    };
    write().map_err(|error| error.about(output))
}

/// Writes a plain dense model directory from a factored one: `X.weight = U · V`, multiplied in
/// f64 and stored in the factors' type, every other tensor byte for byte. The plan stays behind.
/// Memory is bounded as in [`compress_directory`].
///
/// # Errors
///
/// [`FilesError`], [`FilesError::NotFactored`] among them.
pub fn merge_directory(
    checkpoint: &Checkpoint,
    output: &OutputDir,
    settings: &WriteSettings<'_>,
    progress: &mut dyn Progress,
) -> Result<(), FilesError> {
    let pieces = merge_pieces(checkpoint)?;
    let work = Work { what: "merging", origin: "", checkpoint, pieces, settings };
    let mut write = || -> Result<(), FilesError> {
        carry_out(&work, output, progress)?;
        Ok(copy_companions(checkpoint.dir(), output.path())?)
    };
    write().map_err(|error| error.about(output))
}

/// How large the model is that [`merge_directory`] would write.
///
/// # Errors
///
/// [`FilesError::NotFactored`].
pub fn merged_size(checkpoint: &Checkpoint) -> Result<ModelSize, FilesError> {
    let mut size = ModelSize::default();
    for piece in merge_pieces(checkpoint)? {
        for tensor in piece.tensors(checkpoint)? {
            size.parameters += tensor.parameters();
            size.bytes += tensor.bytes();
        }
    }
    Ok(size)
}

fn merge_pieces(checkpoint: &Checkpoint) -> Result<Vec<Piece<'_>>, FilesError> {
    if !checkpoint.names().any(|tensor| FactorNames::matrix_of_v(tensor).is_some()) {
        return Err(FilesError::NotFactored { dir: checkpoint.dir().into() });
    }
    let pieces = checkpoint
        .names()
        .filter(|tensor| !is_rest_of_factors(checkpoint, tensor))
        .map(|tensor| match FactorNames::matrix_of_v(tensor) {
            Some(name) => Piece::merge(checkpoint, name),
            None => Ok(Piece::Copy(tensor)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(pieces)
}

/// Whether a tensor belongs to a matrix that its `V` factor stands for.
fn is_rest_of_factors(checkpoint: &Checkpoint, tensor: &str) -> bool {
    FactorNames::matrix_of_rest(tensor)
        .is_some_and(|name| checkpoint.meta(&FactorNames::of(name).v).is_some())
}

fn weight_of(matrix: &MatrixPlan) -> String {
    format!("{}.weight", matrix.name)
}
