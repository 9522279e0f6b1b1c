use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::DType;
use safetensors::Dtype;

use super::cache::SpectrumCache;
use super::norms::Norms;
use super::spectra::{MatrixSpectrum, ModelSize, PROBE, Spectra, SpectraError};
use crate::calibrate::CalibrationError;
use crate::checkpoint::{Checkpoint, CheckpointError, is_norm};
use crate::forms::{FormError, LiveMatrix, matrices};
use crate::linalg::{Cost, LinalgError, Matrix};
use crate::modules::{MatrixName, Selection, walk};
use crate::progress::{Interrupted, Part, Progress};
use crate::workers::{Budget, Oversized};

/// Why spectra could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpectrumError {
    /// The checkpoint cannot be read.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// A matrix cannot be decomposed.
    #[error("matrix `{name}`: {source}")]
    Linalg {
        /// Name of the matrix.
        name: MatrixName,
        /// Why.
        source: LinalgError,
    },
    /// A matrix is not dense, so its spectrum cannot be measured.
    #[error("matrix `{name}`: {source}")]
    Form {
        /// Name of the matrix.
        name: MatrixName,
        /// Why.
        source: FormError,
    },
    /// The calibration cannot be used.
    #[error("{0}")]
    Calibration(#[from] CalibrationError),
    /// The selection matches nothing.
    #[error("no matrix is selected")]
    NothingSelected,
    /// Patterns that match no matrix.
    #[error("no matrix matches `{patterns}`")]
    UnmatchedPattern {
        /// The patterns.
        patterns: String,
        /// Patterns that were probably meant, if any come close.
        meant: Option<String>,
    },
    /// A matrix does not fit the memory limit.
    #[error("{0}")]
    Oversized(#[from] Oversized),
    /// The measured spectra are inconsistent.
    #[error("{0}")]
    Spectra(#[from] SpectraError),
    /// The user stopped the work.
    #[error("{0}")]
    Interrupted(#[from] Interrupted),
}

/// How matrices are measured.
#[derive(Debug, Clone, Default)]
pub struct MeasureOptions<'a> {
    /// The norm of every matrix; by default that of its weights.
    pub norms: Norms<'a>,
    /// How many matrices may be in flight at once, and in how much memory.
    pub budget: Budget,
    /// Directory in which singular values are cached by the content of their matrix, so that no
    /// matrix is measured twice and interrupted work can resume. It need not exist. A damaged file
    /// in it is ignored and rewritten; a directory that cannot be written is not an error.
    pub cache: Option<PathBuf>,
}

/// Singular values of the selected matrices of a checkpoint.
///
/// Memory is bounded by the matrices in flight ([`Budget`]), not by the model. A cache does not
/// change the result; matrices that it knows are reported to `progress` as known.
///
/// # Errors
///
/// [`SpectrumError`]; a pattern that matches no matrix is an error, not an empty result. A
/// matrix that does not fit the budget is refused before anything is measured.
pub fn measure_checkpoint(
    checkpoint: &Checkpoint,
    selection: &Selection,
    options: &MeasureOptions<'_>,
    progress: &mut dyn Progress,
) -> Result<Spectra, SpectrumError> {
    let names = checkpoint_matrices(checkpoint, selection)?;
    let costs = names
        .iter()
        .map(|name| {
            let shape = checkpoint.matrix_shape(&name.weight())?;
            if let Some(calibration) = options.norms.calibration() {
                calibration.check_shape(name, shape)?;
            }
            Ok(options.norms.cost(name, shape) + Cost::of_values(shape))
        })
        .collect::<Result<Vec<_>, SpectrumError>>()?;
    let cache = options.cache.as_deref().map(SpectrumCache::new);
    let items: Vec<&str> = names.iter().map(MatrixName::as_str).collect();
    let matrices = in_budget(&options.budget, &items, &costs, progress, |index| {
        measure(checkpoint, &names[index], &options.norms, cache.as_ref())
    })?;
    let size = ModelSize { parameters: checkpoint.parameters(), bytes: checkpoint.bytes() };
    // Only the name of the directory: its path is private.
    let whole = checkpoint.dir().canonicalize().unwrap_or_else(|_| checkpoint.dir().into());
    let source = whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned();
    let spectra = Spectra::new(source, size, matrices)?;
    Ok(spectra.measured_in(&options.norms))
}

/// The matrices of a checkpoint that a selection selects, with their shapes `[out, in]`, in the
/// model's order. Reads no weights, so that everything about them can be checked before they are
/// measured.
///
/// # Errors
///
/// [`SpectrumError`], as [`measure_checkpoint`] would return it, for a selection of matrices that are
/// not dense, or none, and for patterns that match nothing.
pub fn selected_matrices(
    checkpoint: &Checkpoint,
    selection: &Selection,
) -> Result<Vec<(MatrixName, [usize; 2])>, SpectrumError> {
    let with_shape = |name: MatrixName| {
        let shape = checkpoint.matrix_shape(&name.weight())?;
        Ok((name, shape))
    };
    checkpoint_matrices(checkpoint, selection)?.into_iter().map(with_shape).collect()
}

/// Spectra of the matrices that [`measure_checkpoint`] would measure, with 1 in place of every
/// singular value. They show before that whether any ranks meet a target.
///
/// # Errors
///
/// Those of [`selected_matrices`], and [`SpectrumError::Spectra`] if there is nothing to measure.
pub fn flat_spectra(
    checkpoint: &Checkpoint,
    selection: &Selection,
) -> Result<Spectra, SpectrumError> {
    let flat = |(name, shape): (MatrixName, [usize; 2])| {
        let dtype = checkpoint.raw(&name.weight())?.0.dtype;
        let singular_values = vec![1.0; shape[0].min(shape[1])];
        let measurements = BTreeMap::new();
        Ok(MatrixSpectrum { name, shape, dtype, digest: None, singular_values, measurements })
    };
    let matrices = selected_matrices(checkpoint, selection)?.into_iter().map(flat);
    let matrices = matrices.collect::<Result<_, SpectrumError>>()?;
    let size = ModelSize { parameters: checkpoint.parameters(), bytes: checkpoint.bytes() };
    Ok(Spectra::new("", size, matrices)?)
}

/// Measures matrices, as many at a time as the budget allows, and returns them in their order.
/// `measure` also returns whether a matrix was known before.
fn in_budget(
    budget: &Budget,
    names: &[&str],
    costs: &[Cost],
    progress: &mut dyn Progress,
    measure: impl Fn(usize) -> Result<(MatrixSpectrum, bool), SpectrumError> + Sync,
) -> Result<Vec<MatrixSpectrum>, SpectrumError> {
    let needs: Vec<u64> = costs.iter().map(|cost| cost.bytes).collect();
    budget.check(names.iter().copied().zip(needs.iter().copied()))?;
    let operations = costs.iter().fold(0, |sum: u64, cost| sum.saturating_add(cost.operations));
    progress.begin_work("singular values", names.len(), operations);
    progress.count_in("matrices");
    let mut measured: Vec<Option<MatrixSpectrum>> = names.iter().map(|_| None).collect();
    // One matrix per core: most of a decomposition is memory-bound and gains little from a second
    // thread.
    budget.workers().try_spread_within(
        budget.memory,
        &needs,
        measure,
        |index, (spectrum, known)| -> Result<(), SpectrumError> {
            measured[index] = Some(spectrum);
            let operations = costs[index].operations;
            Ok(progress.part(Part { item: names[index], steps: 1, operations, known })?)
        },
    )?;
    Ok(measured.into_iter().flatten().collect())
}

/// The spectrum of one matrix, and whether an earlier process had measured it.
fn measure(
    checkpoint: &Checkpoint,
    name: &MatrixName,
    norms: &Norms<'_>,
    cache: Option<&SpectrumCache>,
) -> Result<(MatrixSpectrum, bool), SpectrumError> {
    let tensor = name.weight();
    let shape = checkpoint.matrix_shape(&tensor)?;
    let dtype = checkpoint.raw(&tensor)?.0.dtype;
    let digest = checkpoint.digest(&tensor)?;
    let calibration = norms.calibration();
    if let Some(calibration) = calibration {
        calibration.check(name, &digest)?;
    }
    // The values depend on the norm, and the norm depends on the name.
    let key = match norms.identity() {
        Some(identity) => {
            let key = format!("{digest} {} {identity}", name.as_str());
            blake3::hash(key.as_bytes()).to_hex().to_string()
        }
        None => digest.clone(),
    };
    let found = cache.and_then(|cache| cache.find(&key, shape[0].min(shape[1])));
    let (singular_values, known) = match found {
        Some(found) => found,
        None => {
            let values = values_of(name, &checkpoint.read_matrix(&tensor)?, norms)?;
            checkpoint.check_unchanged()?;
            if let Some(cache) = cache {
                cache.keep(&key, &values);
            }
            (values, false)
        }
    };
    checkpoint.release(&tensor);
    tracing::debug!("{name} {shape:?}: {}", if known { "known before" } else { "measured" });
    let (measurements, name, digest) = (measured(norms, name), name.clone(), Some(digest));
    Ok((MatrixSpectrum { name, shape, dtype, digest, singular_values, measurements }, known))
}

/// Measurements of a matrix in a calibration, other than second moments.
fn measured(norms: &Norms<'_>, name: &MatrixName) -> BTreeMap<String, f64> {
    let probe = norms.calibration().and_then(|calibration| calibration.probe(name));
    probe.map(|probe| (PROBE.to_string(), probe)).into_iter().collect()
}

/// Names of the selected dense matrices of a checkpoint, in the model's order.
fn checkpoint_matrices(
    checkpoint: &Checkpoint,
    selection: &Selection,
) -> Result<Vec<MatrixName>, SpectrumError> {
    let compressed = checkpoint.compressed_matrices()?.into_iter();
    let mut compressed = compressed.filter(|matrix| selection.matches(matrix.name.as_str()));
    if let Some(matrix) = compressed.next() {
        return Err(SpectrumError::Form { name: matrix.name, source: FormError::NotDense });
    }
    let all: Vec<MatrixName> = checkpoint
        .names()
        .filter(|tensor| checkpoint.meta(tensor).is_some_and(|meta| meta.shape.len() == 2))
        .filter_map(MatrixName::of_weight)
        .filter(|name| !is_norm(name))
        .collect();
    select_matrices(all, selection, |name| name)
}

impl Spectra {
    /// Keeps only the selected matrices.
    ///
    /// # Errors
    ///
    /// [`SpectrumError::NothingSelected`], [`SpectrumError::UnmatchedPattern`].
    pub fn select(mut self, selection: &Selection) -> Result<Self, SpectrumError> {
        self.matrices = select_matrices(self.matrices, selection, |matrix| &matrix.name)?;
        Ok(self)
    }
}

/// The selected ones of some matrices, of which `name` gives the names.
///
/// # Errors
///
/// [`SpectrumError::NothingSelected`], [`SpectrumError::UnmatchedPattern`].
pub(crate) fn select_matrices<T>(
    all: Vec<T>,
    selection: &Selection,
    name: impl Fn(&T) -> &MatrixName,
) -> Result<Vec<T>, SpectrumError> {
    let names: Vec<&str> = all.iter().map(|item| name(item).as_str()).collect();
    let unmatched = unmatched(selection, &names);
    let selected: Vec<T> =
        all.into_iter().filter(|item| selection.matches(name(item).as_str())).collect();
    match (unmatched, selected.is_empty()) {
        (Some(unmatched), _) => Err(unmatched),
        (None, true) => Err(SpectrumError::NothingSelected),
        (None, false) => Ok(selected),
    }
}

/// The error for patterns that match nothing, if there are any.
fn unmatched(selection: &Selection, names: &[&str]) -> Option<SpectrumError> {
    let patterns = selection.unmatched(names);
    let meant: Vec<String> =
        patterns.iter().filter_map(|pattern| Selection::meant(pattern, names)).collect();
    let meant = (!meant.is_empty()).then(|| meant.join("`, `"));
    let patterns = patterns.join("`, `");
    (!patterns.is_empty()).then_some(SpectrumError::UnmatchedPattern { patterns, meant })
}

/// Singular values of the selected matrices of a live module. Its matrices are the two-dimensional
/// float parameters called `weight`, named by their paths without `.weight`; the name is empty if
/// the module is a single layer. Only matrices in flight are on the host. The cache is not used: it
/// is for matrices in files.
///
/// # Errors
///
/// [`SpectrumError`], also for factored weights and for `LinearLayout::Col`.
pub fn measure_module<M: Module>(
    module: &M,
    selection: &Selection,
    options: &MeasureOptions<'_>,
    progress: &mut dyn Progress,
) -> Result<Spectra, SpectrumError> {
    let selected = select_matrices(matrices(module), selection, |matrix| &matrix.name)?;
    for matrix in &selected {
        let about = |source| SpectrumError::Form { name: matrix.name.clone(), source };
        matrix.check_dense().map_err(about)?;
        if let Some(calibration) = options.norms.calibration() {
            calibration.check_shape(&matrix.name, matrix.shape)?;
        }
    }
    let norms = &options.norms;
    let costs: Vec<Cost> = selected
        .iter()
        .map(|matrix| norms.cost(&matrix.name, matrix.shape) + Cost::of_values(matrix.shape))
        .collect();
    let names: Vec<&str> = selected.iter().map(|matrix| matrix.name.as_str()).collect();
    let measured = in_budget(&options.budget, &names, &costs, progress, |index| {
        Ok((measure_live(&selected[index], norms)?, false))
    })?;
    Ok(Spectra::new("module", size_of_module(module), measured)?.measured_in(norms))
}

fn measure_live(matrix: &LiveMatrix, norms: &Norms<'_>) -> Result<MatrixSpectrum, SpectrumError> {
    let name = &matrix.name;
    let about = |source| SpectrumError::Form { name: name.clone(), source };
    Ok(MatrixSpectrum {
        name: name.clone(),
        shape: matrix.shape,
        dtype: stored_dtype(matrix.base.base().dtype()),
        digest: None,
        singular_values: values_of(name, &matrix.to_matrix().map_err(about)?, norms)?,
        measurements: measured(norms, name),
    })
}

fn values_of(
    name: &MatrixName,
    matrix: &Matrix,
    norms: &Norms<'_>,
) -> Result<Vec<f64>, SpectrumError> {
    let norm = norms.of(name)?;
    norm.singular_values(matrix)
        .map_err(|source| SpectrumError::Linalg { name: name.clone(), source })
}

/// The size of a module with all its float parameters.
fn size_of_module(module: &impl Module) -> ModelSize {
    let mut size = ModelSize::default();
    walk(module, |_, param| {
        if param.is_float() {
            let parameters: u64 = param.shape().iter().map(|n| *n as u64).product();
            size.parameters += parameters;
            size.bytes += parameters * stored_dtype(param.dtype()).bitsize() as u64 / 8;
        }
    });
    size
}

/// The type in which a parameter of a type of Burn's is stored.
pub(crate) fn stored_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => Dtype::F32,
    }
}
