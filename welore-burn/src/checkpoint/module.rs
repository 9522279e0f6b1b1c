use std::borrow::Cow;
use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, Reparameterization};
use burn::tensor::{DType, FloatDType, Int, Tensor, TensorData};
use safetensors::Dtype;

use super::error::{CheckpointError, TensorProblem};
use super::names::FactorNames;
use super::reader::Checkpoint;
use super::writer::{ShardWriter, encode_floats};
use crate::linear::{LowRank, as_matrix, factored_paths, is_transposed_layout, pivots_of_order};
use crate::progress::Progress;

/// Fills a module's float parameters from a checkpoint, on the parameters' device, each in the
/// type that `dtype_of` gives for its path; vectors, such as norms and biases, in f32.
///
/// A parameter's path is its tensor's name, with Burn's norm fields under their PyTorch
/// names (`gamma` is `weight`, `beta` is `bias`), and a factored weight `X.weight` stored
/// as `X.V.weight` and `X.U.weight`. Weights of `Linear` and `LowRankLinear` are transposed
/// from PyTorch's `[out, in]`. Parameters are replaced one at a time, and lazy ones are
/// never initialized first.
///
/// # Errors
///
/// Those of [`check_module`], before anything is read; errors of [`Checkpoint::read_f32`];
/// [`CheckpointError::Interrupted`].
pub fn load_module<M: Module>(
    module: M,
    checkpoint: &Checkpoint,
    dtype_of: impl Fn(&str) -> FloatDType,
    progress: &mut dyn Progress,
) -> Result<M, CheckpointError> {
    check_module(&module, checkpoint)?;
    let expected = slots(&module)?;
    progress.begin("loading", expected.len());
    let slots = expected.into_iter();
    let mut loader =
        Loader { checkpoint, dtype_of, progress, slots, path: Vec::new(), error: None };
    let module = module.map(&mut loader);
    match loader.error {
        Some(error) => Err(error),
        None => Ok(module),
    }
}

/// Checks that a checkpoint has exactly a module's tensors, in its shapes. Reads and
/// initializes nothing.
///
/// # Errors
///
/// [`CheckpointError::Mismatch`] with every missing, unused and misshaped tensor;
/// [`CheckpointError::Layout`] for weights whose layout is transposed in records.
pub fn check_module<M: Module>(module: &M, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let slots = slots(module)?;
    let problems = compare(&slots, checkpoint);
    if problems.is_empty() {
        return Ok(());
    }
    Err(CheckpointError::Mismatch { dir: checkpoint.dir().into(), problems })
}

/// Writes a module's float parameters under the names [`load_module`] reads.
///
/// # Errors
///
/// [`CheckpointError::Io`] when writing fails, [`CheckpointError::Overflow`] when a value
/// does not fit `dtype`, [`CheckpointError::Interrupted`].
pub fn save_module<M: Module>(
    module: &M,
    dtype: Dtype,
    writer: &mut ShardWriter<'_>,
    progress: &mut dyn Progress,
) -> Result<(), CheckpointError> {
    let slots = slots(module)?;
    progress.begin("saving", slots.len());
    let slots = slots.into_iter();
    let mut saver = Saver { dtype, writer, progress, slots, pivots: None, error: None };
    module.visit(&mut saver);
    saver.error.map_or(Ok(()), Err)
}

/// Where one parameter lives in a checkpoint.
#[derive(Debug)]
struct Slot {
    tensor: String,
    /// Shape in the file.
    shape: Vec<usize>,
    transposed: bool,
    /// The tensor beside it that says which rows of the matrix it does not make. Whoever builds
    /// the module reads it.
    pivots: Option<String>,
}

/// The slots of all float parameters, in traversal order.
fn slots<M: Module>(module: &M) -> Result<Vec<Slot>, CheckpointError> {
    let mut survey = Survey::default();
    module.visit(&mut survey);
    if let Some(path) = survey.transposed_layout {
        return Err(CheckpointError::Layout { path });
    }
    let factored = factored_paths(module);
    // What is a weight of PyTorch's orientation, known by the layer that holds it.
    let linear: BTreeSet<String> = survey
        .found
        .iter()
        .filter(|found| matches!(&*found.container, "Struct:Linear" | "Struct:LowRankLinear"))
        .map(|found| found.path.clone())
        .collect();
    let Survey { found, pivoted, .. } = survey;
    let known = Known { factored, pivoted, linear };
    Ok(found.into_iter().map(|found| slot(found, &known)).collect())
}

/// Paths of weights, by what is special about them.
struct Known {
    factored: BTreeSet<String>,
    /// In pivoted storage.
    pivoted: BTreeSet<String>,
    /// Of linear layers.
    linear: BTreeSet<String>,
}

fn slot(found: Found, known: &Known) -> Slot {
    let Known { factored, pivoted, linear } = known;
    let Found { path, mut shape, container } = found;
    let up = format!(".{}.up", LowRank::NAME);
    let is_norm = container.ends_with("Norm");
    let weight = path.strip_suffix(&up);
    let of_linear = linear.contains(weight.unwrap_or(&path));
    let mut pivots = None;
    let (tensor, transposed) = if let Some(weight) = weight.filter(|w| pivoted.contains(*w)) {
        let names = FactorNames::of(matrix_of(weight));
        pivots = Some(names.pivots);
        (names.c, of_linear)
    } else if let Some(weight) = weight {
        // W = U V. Of a linear layer the module holds the transposes, of an embedding W.
        let names = FactorNames::of(matrix_of(weight));
        (if of_linear { names.u } else { names.v }, of_linear)
    } else if factored.contains(&path) {
        let names = FactorNames::of(matrix_of(&path));
        (if of_linear { names.v } else { names.u }, of_linear)
    } else if let (true, Some(norm)) = (is_norm, path.strip_suffix(".gamma")) {
        (format!("{norm}.weight"), false)
    } else if let (true, Some(norm)) = (is_norm, path.strip_suffix(".beta")) {
        (format!("{norm}.bias"), false)
    } else {
        (path, of_linear && shape.len() == 2)
    };
    if transposed {
        shape.reverse();
    }
    Slot { tensor, shape, transposed, pivots }
}

fn matrix_of(weight: &str) -> &str {
    weight.strip_suffix(".weight").unwrap_or(weight)
}

fn compare(expected: &[Slot], checkpoint: &Checkpoint) -> Vec<TensorProblem> {
    let wanted: BTreeSet<&str> = expected
        .iter()
        .flat_map(|slot| [Some(slot.tensor.as_str()), slot.pivots.as_deref()])
        .flatten()
        .collect();
    let unused: Vec<&str> = checkpoint.names().filter(|name| !wanted.contains(name)).collect();
    let mut problems = Vec::new();
    for slot in expected {
        match checkpoint.meta(&slot.tensor) {
            None => problems.push(TensorProblem::Missing {
                tensor: slot.tensor.clone(),
                similar: most_similar(&slot.tensor, &unused),
            }),
            Some(meta) if meta.shape != slot.shape => problems.push(TensorProblem::Shape {
                tensor: slot.tensor.clone(),
                expected: slot.shape.clone(),
                found: meta.shape.clone(),
            }),
            Some(_) => {}
        }
    }
    problems
        .extend(unused.iter().map(|tensor| TensorProblem::Unused { tensor: tensor.to_string() }));
    problems
}

/// The candidate that looks most like `name`, if one does at all.
fn most_similar(name: &str, candidates: &[&str]) -> Option<String> {
    candidates
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.9)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_string())
}

/// Collects path, shape and container of every float parameter, initializing none.
#[derive(Default)]
struct Survey {
    path: Vec<String>,
    containers: Vec<String>,
    found: Vec<Found>,
    pivoted: BTreeSet<String>,
    transposed_layout: Option<String>,
}

struct Found {
    path: String,
    shape: Vec<usize>,
    container: String,
}

impl ModuleVisitor for Survey {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.into());
        self.containers.push(container.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        if as_matrix(param).is_some_and(is_transposed_layout) {
            self.transposed_layout.get_or_insert(path.clone());
        }
        self.found.push(Found {
            path,
            shape: param.lazy_shape().to_vec(),
            container: self.containers.last().cloned().unwrap_or_default(),
        });
    }

    fn visit_int<const D: usize>(&mut self, _param: &Param<Tensor<D, Int>>) {
        let path = self.path.join(".");
        if let Some(weight) = path.strip_suffix(&format!(".{}.order", LowRank::NAME)) {
            self.pivoted.insert(weight.into());
        }
    }
}

struct Loader<'a, I, F> {
    checkpoint: &'a Checkpoint,
    dtype_of: F,
    progress: &'a mut dyn Progress,
    slots: I,
    path: Vec<String>,
    error: Option<CheckpointError>,
}

impl<I: Iterator<Item = Slot>, F> Loader<'_, I, F> {
    fn read(&mut self, slot: &Slot) -> Result<TensorData, CheckpointError> {
        self.progress.step(&slot.tensor)?;
        let values = self.checkpoint.read_f32(&slot.tensor)?;
        Ok(match (slot.transposed, &slot.shape[..]) {
            (true, [rows, cols]) => {
                TensorData::new(transpose(&values, *rows, *cols), [*cols, *rows])
            }
            _ => TensorData::new(values, slot.shape.clone()),
        })
    }
}

impl<I: Iterator<Item = Slot>, F: Fn(&str) -> FloatDType> ModuleMapper for Loader<'_, I, F> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let slot = self.slots.next().expect("the survey saw every parameter");
        if self.error.is_some() {
            return param;
        }
        match self.read(&slot) {
            Ok(data) => {
                let device = param.lazy_device();
                let dtype = match D {
                    1 => FloatDType::F32,
                    _ => (self.dtype_of)(&self.path.join(".")),
                };
                let tensor = Tensor::from_data(data, (&device, DType::from(dtype)));
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

struct Saver<'a, 'w, I> {
    dtype: Dtype,
    writer: &'a mut ShardWriter<'w>,
    progress: &'a mut dyn Progress,
    slots: I,
    /// Name and number of the pivots of the last slot, if it has any.
    pivots: Option<(String, usize)>,
    error: Option<CheckpointError>,
}

impl<I: Iterator<Item = Slot>> Saver<'_, '_, I> {
    fn write(&mut self, slot: &Slot, values: Vec<f64>) -> Result<(), CheckpointError> {
        self.progress.step(&slot.tensor)?;
        let values = match (slot.transposed, &slot.shape[..]) {
            (true, [rows, cols]) => transpose(&values, *cols, *rows),
            _ => values,
        };
        let data = encode_floats(&slot.tensor, &values, self.dtype)?;
        self.writer.add(&slot.tensor, self.dtype, &slot.shape, Cow::Owned(data))
    }
}

impl<I: Iterator<Item = Slot>> ModuleVisitor for Saver<'_, '_, I> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let slot = self.slots.next().expect("the survey saw every parameter");
        if self.error.is_some() {
            return;
        }
        let values = param.transform_for_save().base().into_data().iter::<f64>().collect();
        self.error = self.write(&slot, values).err();
        // Up factors are `[out - rank, rank]` in files.
        self.pivots = slot.pivots.map(|tensor| (tensor, slot.shape[1]));
    }

    /// The order of an up factor comes right after it.
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        let Some((tensor, rank)) = self.pivots.take().filter(|_| self.error.is_none()) else {
            return;
        };
        let order: Vec<i32> = param.val().into_data().iter::<i32>().collect();
        let data = pivots_of_order(&order, rank).iter().flat_map(|p| p.to_le_bytes()).collect();
        self.error = self.writer.add(&tensor, Dtype::I32, &[rank], Cow::Owned(data)).err();
    }
}

/// The transpose of a row-major `[rows, cols]` matrix, in blocks that stay in cache.
fn transpose<T: Copy + Default>(values: &[T], rows: usize, cols: usize) -> Vec<T> {
    const BLOCK: usize = 32;
    let mut out = vec![T::default(); values.len()];
    for top in (0..rows).step_by(BLOCK) {
        for left in (0..cols).step_by(BLOCK) {
            for row in top..(top + BLOCK).min(rows) {
                for col in left..(left + BLOCK).min(cols) {
                    out[col * rows + row] = values[row * cols + col];
                }
            }
        }
    }
    out
}
