use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{FloatDType, Gradients, Tensor};

use super::calibration::Calibration;
use super::error::CalibrationError;
use crate::checkpoint::Selection;
use crate::linalg::{LinalgError, Matrix, SecondMoment};
use crate::linear::{Tap, as_matrix, factored_paths, tapped, to_matrix};

/// Measures any Burn module whose layers are [`LowRankLinear`](crate::linear::LowRankLinear).
///
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use welore_burn::calibrate::Collector;
/// use welore_burn::checkpoint::Selection;
/// use welore_burn::linear::LowRankLinearConfig;
///
/// let device = Device::flex().autodiff();
/// let layer = LowRankLinearConfig::new(8, 4).init(&device);
/// let mut collector = Collector::new(&layer, &Selection::all())?;
/// for _ in 0..10 {
///     let x = Tensor::<2>::random([32, 8], Distribution::Normal(0.0, 1.0), &device);
///     let (loss, seen) = collector.observe(|| layer.forward(x).powi_scalar(2).sum());
///     collector.collect(seen, Some(&mut loss.backward()));
/// }
/// let calibration = collector.finish()?;
/// assert_eq!(calibration.inputs("")?.count(), 320);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Collector {
    names: BTreeMap<ParamId, String>,
    inputs: BTreeMap<String, SecondMoment>,
    outputs: BTreeMap<String, SecondMoment>,
}

/// What one forward pass showed.
#[derive(Debug, Default)]
pub struct Seen {
    /// Of every layer in the order of their use, the length of an input, and the inputs.
    pub(crate) inputs: Vec<(ParamId, usize, Arc<Vec<f32>>)>,
    /// Zeros that were added to outputs, for the gradients of those.
    pub(crate) probes: Vec<(ParamId, Tensor<2>)>,
}

impl Collector {
    /// For the selected matrices of a module.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::Factored`], [`CalibrationError::NothingSelected`].
    pub fn new(module: &impl Module, selection: &Selection) -> Result<Self, CalibrationError> {
        let named = matrices(module, selection)?.into_iter();
        let names = named.map(|(id, (name, _))| (id, name)).collect();
        Ok(Self { names, inputs: BTreeMap::new(), outputs: BTreeMap::new() })
    }

    /// Does a forward pass, on this thread. On an autodiff device the gradients of outputs can be
    /// collected after it.
    pub fn observe<R>(&self, work: impl FnOnce() -> R) -> (R, Seen) {
        let ids = self.names.keys().copied().collect();
        let (result, eye) = tapped(Eye { ids, inputs: true, seen: Seen::default() }, work);
        (result, eye.seen)
    }

    /// Takes in what a pass showed, with the gradients of its loss if there are any.
    pub fn collect(&mut self, seen: Seen, mut gradients: Option<&mut Gradients>) {
        let add = |into: &mut BTreeMap<_, SecondMoment>, name: &String, rows: &[f32], size| {
            let moment = into.entry(name.clone()).or_insert_with(|| SecondMoment::new(size));
            moment.add(rows);
        };
        for (id, size, rows) in &seen.inputs {
            add(&mut self.inputs, &self.names[id], rows, *size);
        }
        for (id, probe) in &seen.probes {
            let [_, size] = probe.dims();
            let gradient = gradients.as_mut().and_then(|gradients| probe.grad_remove(gradients));
            if let Some(gradient) = gradient {
                add(&mut self.outputs, &self.names[id], &to_rows(gradient), size);
            }
        }
    }

    /// What was measured.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::NotFinite`].
    pub fn finish(self) -> Result<Calibration, CalibrationError> {
        Calibration::in_memory(self.inputs, self.outputs)
    }
}

/// The matrices of a dense module, to look at what they see.
#[derive(Debug)]
pub(crate) struct Watch {
    params: BTreeMap<ParamId, (String, Param<Tensor<2>>)>,
}

impl Watch {
    /// Of all projections.
    pub fn new(module: &impl Module) -> Result<Self, CalibrationError> {
        let selection = Selection::projections();
        let params = matrices(module, &selection)?;
        Ok(Self { params })
    }

    /// Does a forward pass on this thread, and keeps the inputs of the matrices.
    pub fn inputs<R>(&self, work: impl FnOnce() -> R) -> (R, Seen) {
        self.watched(true, work)
    }

    /// The same for the outputs alone, on an autodiff device.
    pub fn outputs<R>(&self, work: impl FnOnce() -> R) -> (R, Seen) {
        self.watched(false, work)
    }

    fn watched<R>(&self, inputs: bool, work: impl FnOnce() -> R) -> (R, Seen) {
        let ids = self.params.keys().copied().collect();
        let (result, eye) = tapped(Eye { ids, inputs, seen: Seen::default() }, work);
        (result, eye.seen)
    }

    /// The name of a matrix.
    pub fn name(&self, id: ParamId) -> &String {
        &self.params[&id].0
    }

    /// A matrix `[out, in]`, with the id of its parameter.
    pub fn matrix(&self, name: &str) -> Result<(ParamId, Matrix), LinalgError> {
        let found = self.params.iter().find(|(_, (known, _))| known == name);
        let (id, (_, param)) = found.expect("the name came of this watch");
        Ok((*id, to_matrix(param.base())?))
    }

    /// The matrices that were used, in their order, each with the first that saw the same.
    pub fn groups(&self, seen: &Seen) -> Vec<(String, String)> {
        let first = |rows: &Arc<Vec<f32>>| {
            let same = seen.inputs.iter().find(|(_, _, other)| Arc::ptr_eq(other, rows));
            same.map_or(0.into(), |(id, _, _)| *id)
        };
        let group = |(id, _, rows): &(ParamId, usize, Arc<Vec<f32>>)| {
            (self.name(*id).clone(), self.name(first(rows)).clone())
        };
        seen.inputs.iter().map(group).collect()
    }
}

/// Keeps what it sees of some layers.
struct Eye {
    ids: BTreeSet<ParamId>,
    /// Whether inputs are kept; else only outputs are probed.
    inputs: bool,
    seen: Seen,
}

impl Tap for Eye {
    fn input(&mut self, weight: ParamId, input: Tensor<2>) {
        if self.inputs && self.ids.contains(&weight) {
            let [_, size] = input.dims();
            let rows = to_rows(input);
            // Queries, keys and values see the same.
            let last = self.seen.inputs.last().filter(|(_, _, last)| **last == rows);
            let rows = last.map_or_else(|| Arc::new(rows), |(_, _, last)| last.clone());
            self.seen.inputs.push((weight, size, rows));
        }
    }

    fn output(&mut self, weight: ParamId, output: Tensor<2>) -> Tensor<2> {
        if !output.is_autodiff() || !self.ids.contains(&weight) {
            return output;
        }
        let zeros = Tensor::<2>::zeros(output.dims(), &output.device());
        let zeros = zeros.cast(FloatDType::from(output.dtype())).require_grad();
        self.seen.probes.push((weight, zeros.clone()));
        output + zeros
    }
}

/// Entries in f32, row after row.
pub(super) fn to_rows(x: Tensor<2>) -> Vec<f32> {
    let x = if x.is_autodiff() { x.inner() } else { x };
    x.cast(FloatDType::F32).into_data().try_into_vec::<f32>().expect("it was cast")
}

/// The selected matrices of a module with their names, by the ids of their parameters.
fn matrices(
    module: &impl Module,
    selection: &Selection,
) -> Result<BTreeMap<ParamId, (String, Param<Tensor<2>>)>, CalibrationError> {
    let name_of = |path: &str| {
        let name = if path == "weight" { Some("") } else { path.strip_suffix(".weight") };
        name.filter(|name| selection.matches(name)).map(str::to_string)
    };
    if let Some(name) = factored_paths(module).iter().find_map(|path| name_of(path)) {
        return Err(CalibrationError::Factored { name });
    }
    let mut matrices = Matrices { path: Vec::new(), found: Vec::new() };
    module.visit(&mut matrices);
    let named =
        |(path, param): (String, Param<Tensor<2>>)| Some((param.id, (name_of(&path)?, param)));
    let params: BTreeMap<_, _> = matrices.found.into_iter().filter_map(named).collect();
    match params.is_empty() {
        true => Err(CalibrationError::NothingSelected),
        false => Ok(params),
    }
}

struct Matrices {
    path: Vec<String>,
    found: Vec<(String, Param<Tensor<2>>)>,
}

impl ModuleVisitor for Matrices {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(matrix) = as_matrix(param) {
            self.found.push((self.path.join("."), matrix.clone()));
        }
    }
}
