use std::borrow::Cow;
use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, Reparameterization};
use burn::tensor::{DType, Tensor, TensorData};
use safetensors::Dtype;

use super::error::{CheckpointError, TensorProblem};
use super::names::FactorNames;
use super::reader::Checkpoint;
use super::writer::{ShardWriter, encode_floats};
use crate::linear::{LowRank, factored_paths};
use crate::progress::Progress;

/// Fills a module's float parameters from a checkpoint, in f32, on the parameters' device.
///
/// A parameter's path is its tensor's name, with Burn's norm fields under their PyTorch
/// names (`gamma` is `weight`, `beta` is `bias`), and a factored weight `X.weight` stored
/// as `X.V.weight` and `X.U.weight`. Weights of `Linear` and `LowRankLinear` are transposed
/// from PyTorch's `[out, in]`. Parameters are replaced one at a time, and lazy ones are
/// never initialized first.
///
/// # Errors
///
/// [`CheckpointError::Mismatch`] with every missing, unused and misshaped tensor, found
/// before anything is read, tensors for which `ignore` is true apart; errors of
/// [`Checkpoint::read_f32`]; [`CheckpointError::Interrupted`].
pub fn load_module<M: Module>(
    module: M,
    checkpoint: &Checkpoint,
    ignore: impl Fn(&str) -> bool,
    progress: &mut dyn Progress,
) -> Result<M, CheckpointError> {
    check_module(&module, checkpoint, ignore)?;
    let expected = slots(&module);
    progress.begin("loading", expected.len());
    let mut loader = Loader { checkpoint, progress, slots: expected.into_iter(), error: None };
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
/// [`CheckpointError::Mismatch`], as [`load_module`].
pub fn check_module<M: Module>(
    module: &M,
    checkpoint: &Checkpoint,
    ignore: impl Fn(&str) -> bool,
) -> Result<(), CheckpointError> {
    let problems = compare(&slots(module), checkpoint, ignore);
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
    let slots = slots(module);
    progress.begin("saving", slots.len());
    let mut saver = Saver { dtype, writer, progress, slots: slots.into_iter(), error: None };
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
}

/// The slots of all float parameters, in traversal order.
fn slots<M: Module>(module: &M) -> Vec<Slot> {
    let mut survey = Survey::default();
    module.visit(&mut survey);
    let factored = factored_paths(module);
    survey
        .found
        .into_iter()
        .map(|(path, shape, container)| slot(path, shape, &container, &factored))
        .collect()
}

fn slot(
    path: Vec<String>,
    mut shape: Vec<usize>,
    container: &str,
    factored: &BTreeSet<String>,
) -> Slot {
    let dotted = path.join(".");
    let parent = path[..path.len() - 1].join(".");
    let last = path.last().map(String::as_str).unwrap_or_default();
    let is_linear = matches!(container, "Struct:Linear" | "Struct:LowRankLinear");
    let is_norm = container.ends_with("Norm");
    let up_of = dotted.strip_suffix(&format!(".weight.{}.up", LowRank::NAME));
    let (tensor, transposed) = if let Some(matrix) = up_of {
        (FactorNames::of(matrix).u, true)
    } else if factored.contains(&dotted) {
        (FactorNames::of(&parent).v, true)
    } else if is_norm && last == "gamma" {
        (format!("{parent}.weight"), false)
    } else if is_norm && last == "beta" {
        (format!("{parent}.bias"), false)
    } else {
        (dotted, is_linear && shape.len() == 2)
    };
    if transposed {
        shape.reverse();
    }
    Slot { tensor, shape, transposed }
}

fn compare(
    expected: &[Slot],
    checkpoint: &Checkpoint,
    ignore: impl Fn(&str) -> bool,
) -> Vec<TensorProblem> {
    let wanted: BTreeSet<&str> = expected.iter().map(|slot| slot.tensor.as_str()).collect();
    let unused: Vec<&str> =
        checkpoint.names().filter(|name| !wanted.contains(name) && !ignore(name)).collect();
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
    found: Vec<(Vec<String>, Vec<usize>, String)>,
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
        let container = self.containers.last().cloned().unwrap_or_default();
        self.found.push((self.path.clone(), param.lazy_shape().to_vec(), container));
    }
}

struct Loader<'a, I> {
    checkpoint: &'a Checkpoint,
    progress: &'a mut dyn Progress,
    slots: I,
    error: Option<CheckpointError>,
}

impl<I: Iterator<Item = Slot>> Loader<'_, I> {
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

impl<I: Iterator<Item = Slot>> ModuleMapper for Loader<'_, I> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let slot = self.slots.next().expect("the survey saw every parameter");
        if self.error.is_some() {
            return param;
        }
        match self.read(&slot) {
            Ok(data) => {
                let device = param.lazy_device();
                let tensor = Tensor::from_data(data, (&device, DType::F32));
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
