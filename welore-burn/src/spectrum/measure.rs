use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};
use safetensors::Dtype;

use super::cache::SpectrumCache;
use super::cost::Cost;
use super::norms::Norms;
use super::spectra::{MatrixSpectrum, ModelSize, Spectra, SpectraError};
use crate::calibrate::CalibrationError;
use crate::checkpoint::Selection;
use crate::checkpoint::{Checkpoint, CheckpointError, FactorNames};
use crate::linalg::{LinalgError, Matrix};
use crate::linear::{as_matrix, factored_paths, is_transposed_layout, to_matrix};
use crate::progress::{Interrupted, Part, Progress};
use crate::workers::{Budget, Oversized};

/// Why spectra could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum SpectrumError {
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A matrix cannot be decomposed.
    #[error("matrix `{name}`: {source}")]
    Linalg {
        /// Name of the matrix.
        name: String,
        /// Why.
        source: LinalgError,
    },
    /// A matrix is factored already, so its dense spectrum is gone.
    #[error("matrix `{name}` is factored already; measure the dense model")]
    Factored {
        /// Name of the matrix.
        name: String,
    },
    /// A weight whose layout is transposed in records.
    #[error(
        "matrix `{name}` has LinearLayout::Col, which cannot be factored; use LinearLayout::Row"
    )]
    Layout {
        /// Name of the matrix.
        name: String,
    },
    /// The calibration cannot be used.
    #[error(transparent)]
    Calibration(#[from] CalibrationError),
    /// The selection matches nothing.
    #[error("no matrix is selected")]
    NothingSelected,
    /// Patterns that match no matrix.
    #[error("no matrix matches `{patterns}`")]
    UnmatchedPattern {
        /// The patterns.
        patterns: String,
        /// What they likely should be, as far as anything comes close.
        meant: Option<String>,
    },
    /// A matrix does not fit the memory that may be used.
    #[error(transparent)]
    Oversized(#[from] Oversized),
    /// What was measured is inconsistent.
    #[error(transparent)]
    Spectra(#[from] SpectraError),
    /// The user stopped the work.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// How the matrices of a checkpoint are measured.
#[derive(Debug, Clone, Default)]
pub struct MeasureSettings<'a> {
    /// The norm of every matrix; that of its weights by default.
    pub norms: Norms<'a>,
    /// How many matrices are in flight at once, in how much memory.
    pub budget: Budget,
    /// Directory in which singular values are kept by the content of their matrix, so that no
    /// matrix is measured twice and interrupted work goes on where it stopped. It need not exist.
    /// A file in it that is damaged is ignored and written anew; a directory that cannot be
    /// written is no error.
    pub cache: Option<PathBuf>,
}

/// Singular values of the selected matrices of a checkpoint.
///
/// Memory is bounded by the matrices in flight ([`Budget`]), not by the model. The result is the
/// same with a cache and without; what it knew is told as such to `progress`.
///
/// # Errors
///
/// [`SpectrumError`]; a pattern that matches no matrix is an error, not an empty result. A
/// matrix that does not fit the budget is refused before anything is measured.
pub fn measure_checkpoint(
    checkpoint: &Checkpoint,
    selection: &Selection,
    settings: &MeasureSettings<'_>,
    progress: &mut dyn Progress,
) -> Result<Spectra, SpectrumError> {
    let names = checkpoint_matrices(checkpoint, selection)?;
    let costs = names
        .iter()
        .map(|name| {
            let shape = checkpoint.matrix_shape(&weight_of(name))?;
            Ok(settings.norms.cost(shape) + Cost::of_values(shape))
        })
        .collect::<Result<Vec<_>, CheckpointError>>()?;
    let needs: Vec<u64> = costs.iter().map(|cost| cost.bytes).collect();
    settings.budget.check(names.iter().copied().zip(needs.iter().copied()))?;

    let cache = settings.cache.as_deref().map(SpectrumCache::new);
    let operations = costs.iter().fold(0, |sum: u64, cost| sum.saturating_add(cost.operations));
    progress.begin_work("singular values", names.len(), operations);
    let mut measured: Vec<Option<MatrixSpectrum>> = names.iter().map(|_| None).collect();
    let mut outcome = Ok(());
    // A matrix a core: most of a decomposition is memory-bound and gains little from a second
    // thread.
    settings.budget.workers().spread_within(
        settings.budget.memory,
        &needs,
        |index| measure(checkpoint, names[index], settings.norms, cache.as_ref()),
        |index, result| {
            let noted = result.and_then(|(spectrum, known)| {
                measured[index] = Some(spectrum);
                let operations = costs[index].operations;
                Ok(progress.part(Part { item: names[index], steps: 1, operations, known })?)
            });
            if outcome.is_ok() {
                outcome = noted;
            }
            match outcome {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        },
    );
    outcome?;
    let matrices = measured.into_iter().flatten().collect();
    let size = ModelSize { parameters: checkpoint.parameters(), bytes: checkpoint.bytes() };
    // A name for people; where the directory lies is nobody else's business.
    let whole = checkpoint.dir().canonicalize().unwrap_or_else(|_| checkpoint.dir().into());
    let source = whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned();
    let spectra = Spectra::new(source, size, matrices)?;
    Ok(spectra.measured_in(settings.norms))
}

fn weight_of(name: &str) -> String {
    format!("{name}.weight")
}

/// The spectrum of one matrix, and whether an earlier run had measured it.
fn measure(
    checkpoint: &Checkpoint,
    name: &str,
    norms: Norms<'_>,
    cache: Option<&SpectrumCache>,
) -> Result<(MatrixSpectrum, bool), SpectrumError> {
    let tensor = weight_of(name);
    let shape = checkpoint.matrix_shape(&tensor)?;
    let dtype = checkpoint.raw(&tensor)?.0.dtype;
    let digest = checkpoint.digest(&tensor)?;
    let calibration = norms.calibration();
    if let Some(calibration) = calibration {
        calibration.check(name, &digest)?;
    }
    // The same matrix has other values in another norm, and under another name another norm.
    let key = match norms.identity() {
        Some(identity) => {
            blake3::hash(format!("{digest} {name} {identity}").as_bytes()).to_hex().to_string()
        }
        None => digest.clone(),
    };
    let found = cache.and_then(|cache| cache.find(&key, shape[0].min(shape[1])));
    let (singular_values, known) = match found {
        Some(found) => found,
        None => {
            let values = values_of(name, &checkpoint.read_matrix(&tensor)?, norms)?;
            if let Some(cache) = cache {
                cache.keep(&key, &values);
            }
            (values, false)
        }
    };
    checkpoint.release(&tensor);
    tracing::debug!("{name} {shape:?}: {}", if known { "known before" } else { "measured" });
    let (name, digest) = (name.to_string(), Some(digest));
    let probe = calibration.and_then(|calibration| calibration.probe(&name));
    Ok((MatrixSpectrum { name, shape, dtype, digest, singular_values, probe }, known))
}

/// Names of the selected dense matrices of a checkpoint, in the model's order.
fn checkpoint_matrices<'a>(
    checkpoint: &'a Checkpoint,
    selection: &Selection,
) -> Result<Vec<&'a str>, SpectrumError> {
    if let Some(name) = checkpoint
        .names()
        .find_map(|tensor| FactorNames::matrix_of_v(tensor).filter(|name| selection.matches(name)))
    {
        return Err(SpectrumError::Factored { name: name.into() });
    }
    let all: Vec<&str> = checkpoint
        .names()
        .filter(|tensor| checkpoint.meta(tensor).is_some_and(|meta| meta.shape.len() == 2))
        .filter_map(|tensor| tensor.strip_suffix(".weight"))
        .collect();
    select(all, selection, |name| name)
}

impl Spectra {
    /// The part of the spectra that a selection picks.
    ///
    /// # Errors
    ///
    /// [`SpectrumError::NothingSelected`], [`SpectrumError::UnmatchedPattern`].
    pub fn select(mut self, selection: &Selection) -> Result<Self, SpectrumError> {
        self.matrices = select(self.matrices, selection, |matrix| &matrix.name)?;
        Ok(self)
    }
}

fn select<T>(
    all: Vec<T>,
    selection: &Selection,
    name: impl Fn(&T) -> &str,
) -> Result<Vec<T>, SpectrumError> {
    let names: Vec<&str> = all.iter().map(&name).collect();
    let unmatched = unmatched(selection, &names);
    let selected: Vec<T> = all.into_iter().filter(|item| selection.matches(name(item))).collect();
    match (unmatched, selected.is_empty()) {
        (Some(unmatched), _) => Err(unmatched),
        (None, true) => Err(SpectrumError::NothingSelected),
        (None, false) => Ok(selected),
    }
}

/// The error that patterns which match nothing are, if there are such.
fn unmatched(selection: &Selection, names: &[&str]) -> Option<SpectrumError> {
    let patterns = selection.unmatched(names);
    let meant: Vec<String> =
        patterns.iter().filter_map(|pattern| Selection::meant(pattern, names)).collect();
    let meant = (!meant.is_empty()).then(|| meant.join("`, `"));
    let patterns = patterns.join("`, `");
    (!patterns.is_empty()).then_some(SpectrumError::UnmatchedPattern { patterns, meant })
}

/// Singular values of the selected matrices of a live module: every 2-D float parameter
/// called `weight`, named by its path without `.weight`. Matrices come to the host one at a
/// time.
///
/// # Errors
///
/// [`SpectrumError`], also for factored weights and for `LinearLayout::Col`.
pub fn measure_module<M: Module>(
    module: &M,
    selection: &Selection,
    progress: &mut dyn Progress,
) -> Result<Spectra, SpectrumError> {
    measure_module_in(module, selection, Norms::plain(), progress)
}

/// [`measure_module`] in the norms of a calibration.
///
/// # Errors
///
/// Also [`SpectrumError::Calibration`].
pub fn measure_module_in<M: Module>(
    module: &M,
    selection: &Selection,
    norms: Norms<'_>,
    progress: &mut dyn Progress,
) -> Result<Spectra, SpectrumError> {
    let mut survey = Survey::default();
    module.visit(&mut survey);
    let size = survey.size;
    let selected = select(survey.matrices, selection, |(name, _)| name)?;
    let factored = factored_paths(module);
    let is_factored = |name: &str| factored.contains(&format!("{name}.weight"));
    if let Some((name, _)) = selected.iter().find(|(name, _)| is_factored(name)) {
        return Err(SpectrumError::Factored { name: name.clone() });
    }
    progress.begin("singular values", selected.len());
    let mut matrices = Vec::with_capacity(selected.len());
    for (name, param) in selected {
        progress.step(&name)?;
        if is_transposed_layout(&param) {
            return Err(SpectrumError::Layout { name });
        }
        let weight = param.val();
        let dtype = stored_dtype(weight.dtype());
        let matrix = to_matrix(weight)
            .map_err(|source| SpectrumError::Linalg { name: name.clone(), source })?;
        matrices.push(MatrixSpectrum {
            shape: [matrix.rows(), matrix.cols()],
            dtype,
            digest: None,
            singular_values: values_of(&name, &matrix, norms)?,
            probe: norms.calibration().and_then(|calibration| calibration.probe(&name)),
            name,
        });
    }
    Ok(Spectra::new("module", size, matrices)?.measured_in(norms))
}

fn values_of(name: &str, matrix: &Matrix, norms: Norms<'_>) -> Result<Vec<f64>, SpectrumError> {
    let norm = norms.of(name)?;
    norm.singular_values(matrix)
        .map_err(|source| SpectrumError::Linalg { name: name.into(), source })
}

fn stored_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => Dtype::F32,
    }
}

#[derive(Default)]
struct Survey {
    path: Vec<String>,
    matrices: Vec<(String, Param<Tensor<2>>)>,
    size: ModelSize,
}

impl ModuleVisitor for Survey {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let parameters = param.lazy_shape().num_elements() as u64;
        self.size.parameters += parameters;
        self.size.bytes += parameters * stored_dtype(param.base().dtype()).bitsize() as u64 / 8;
        if let (Some(matrix), [parent @ .., last]) = (as_matrix(param), &self.path[..])
            && last == "weight"
        {
            self.matrices.push((parent.join("."), matrix.clone()));
        }
    }
}
