use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use burn::module::{Module, ParamId};
use burn::tensor::{FloatDType, Gradients, Tensor};

use super::calibration::Calibration;
use super::error::CalibrationError;
use crate::forms::{FormError, LiveMatrix, matrices};
use crate::linalg::{Matrix, SecondMoment};
use crate::model::LanguageModel;
use crate::modules::{MatrixName, Selection, Tap, tapped};

/// Calibrates any Burn module whose layers are [`LowRankLinear`](crate::linear::LowRankLinear).
///
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use welore_burn::calibrate::Collector;
/// use welore_burn::linear::LowRankLinearConfig;
/// use welore_burn::modules::{MatrixName, Selection};
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
/// // The module is a single layer, so its matrix has no name.
/// assert_eq!(calibration.inputs(&MatrixName::new(""))?.count(), 320);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Collector {
    names: BTreeMap<ParamId, MatrixName>,
    inputs: BTreeMap<MatrixName, SecondMoment>,
    outputs: BTreeMap<MatrixName, SecondMoment>,
}

/// What was recorded in one forward pass.
#[derive(Debug, Default)]
pub struct Seen {
    /// For every layer in the order of use: its weight, the length of an input, and the inputs.
    pub(crate) inputs: Vec<(ParamId, usize, Arc<Vec<f32>>)>,
    /// Zeros that were added to outputs: their gradients are those of the outputs.
    pub(crate) probes: Vec<(ParamId, Tensor<2>)>,
    /// The layers that see only those rows that a router gives them.
    routed: BTreeSet<ParamId>,
}

/// Which layers of experts see all rows, and not only those that a router gives them.
#[derive(Debug, Default)]
enum SeesAll {
    #[default]
    None,
    Every,
    /// Those of the experts that have one of these weights.
    Of(BTreeSet<ParamId>),
}

impl Collector {
    /// A collector for the selected matrices of a module.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::Form`], [`CalibrationError::NothingSelected`].
    pub fn new(module: &impl Module, selection: &Selection) -> Result<Self, CalibrationError> {
        let found = dense_matrices(module, |name| selection.matches(name.as_str()))?;
        let names = found.into_iter().map(|(id, matrix)| (id, matrix.name)).collect();
        Ok(Self { names, inputs: BTreeMap::new(), outputs: BTreeMap::new() })
    }

    /// Runs a forward pass on this thread and records it. On an autodiff device, gradients of
    /// outputs can be collected afterwards.
    pub fn observe<R>(&self, work: impl FnOnce() -> R) -> (R, Seen) {
        let ids = self.names.keys().copied().collect();
        let all = SeesAll::None;
        let (result, eye) = tapped(Eye { ids, inputs: true, all, seen: Seen::default() }, work);
        (result, eye.seen)
    }

    /// Adds what was recorded in a pass, with the gradients of its loss if there are any.
    pub fn collect(&mut self, seen: Seen, mut gradients: Option<&mut Gradients>) {
        let add = |into: &mut BTreeMap<_, SecondMoment>, name: &MatrixName, rows: &[f32], size| {
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

    /// The calibration from all that was collected.
    ///
    /// # Errors
    ///
    /// [`CalibrationError::NotFinite`].
    pub fn finish(self) -> Result<Calibration, CalibrationError> {
        Calibration::in_memory(self.inputs, self.outputs)
    }
}

/// Watches the matrices of a dense language model.
#[derive(Debug)]
pub(crate) struct Watch {
    matrices: BTreeMap<ParamId, LiveMatrix>,
}

impl Watch {
    /// Watches all matrices of the model that can be compressed.
    pub fn new(model: &impl LanguageModel) -> Result<Self, CalibrationError> {
        let names: BTreeSet<MatrixName> =
            model.matrices().into_iter().map(|matrix| matrix.name).collect();
        let matrices = dense_matrices(model, |name| names.contains(name))?;
        let found: BTreeSet<&MatrixName> = matrices.values().map(|matrix| &matrix.name).collect();
        match names.iter().find(|name| !found.contains(name)) {
            Some(name) => Err(CalibrationError::NotUsed(name.clone())),
            None => Ok(Self { matrices }),
        }
    }

    /// Runs a forward pass on this thread and records the inputs of the matrices.
    pub fn inputs<R>(&self, work: impl FnOnce() -> R) -> (R, Seen) {
        self.watched(true, SeesAll::None, work)
    }

    /// Runs a forward pass on this thread and records the inputs of one matrix.
    pub fn inputs_of<R>(&self, name: &MatrixName, work: impl FnOnce() -> R) -> (R, Seen) {
        let of = self.matrices.iter().filter(|(_, matrix)| matrix.name == *name);
        let ids = of.map(|(id, _)| *id).collect();
        let (all, seen) = (SeesAll::None, Seen::default());
        let (result, eye) = tapped(Eye { ids, inputs: true, all, seen }, work);
        (result, eye.seen)
    }

    /// Runs a forward pass on this thread and records the inputs of the matrices, where all experts
    /// see all rows: so every matrix has some.
    pub fn survey<R>(&self, work: impl FnOnce() -> R) -> (R, Seen) {
        self.watched(true, SeesAll::Every, work)
    }

    /// Runs a forward pass on this thread and records the inputs of the matrices, where the experts
    /// of these matrices see all rows.
    pub fn inputs_of_all<R>(
        &self,
        names: &BTreeSet<MatrixName>,
        work: impl FnOnce() -> R,
    ) -> (R, Seen) {
        let of = self.matrices.iter().filter(|(_, matrix)| names.contains(&matrix.name));
        self.watched(true, SeesAll::Of(of.map(|(id, _)| *id).collect()), work)
    }

    /// Runs a forward pass on this thread and probes only the outputs, on an autodiff device.
    pub fn outputs<R>(&self, work: impl FnOnce() -> R) -> (R, Seen) {
        self.watched(false, SeesAll::None, work)
    }

    fn watched<R>(&self, inputs: bool, all: SeesAll, work: impl FnOnce() -> R) -> (R, Seen) {
        let ids = self.matrices.keys().copied().collect();
        let (result, eye) = tapped(Eye { ids, inputs, all, seen: Seen::default() }, work);
        (result, eye.seen)
    }

    /// The name of a matrix.
    pub fn name(&self, id: ParamId) -> &MatrixName {
        &self.matrices[&id].name
    }

    /// Names and shapes `[out, in]` of all matrices.
    pub fn shapes(&self) -> impl ExactSizeIterator<Item = (&MatrixName, [usize; 2])> {
        self.matrices.values().map(|matrix| (&matrix.name, matrix.shape))
    }

    /// The shape `[out, in]` of a matrix.
    pub fn shape(&self, name: &MatrixName) -> [usize; 2] {
        self.find(name).shape
    }

    /// The entries of a matrix, `[out, in]`.
    pub fn matrix(&self, name: &MatrixName) -> Result<Matrix, FormError> {
        self.find(name).to_matrix()
    }

    fn find(&self, name: &MatrixName) -> &LiveMatrix {
        let found = self.matrices.values().find(|matrix| matrix.name == *name);
        found.expect("the name came from this watch")
    }

    /// The matrices in the order of their use, each with the first one that had the same inputs.
    pub fn groups(&self, seen: &Seen) -> Vec<SharedInputs> {
        let first = |rows: &Arc<Vec<f32>>| {
            let same = seen.inputs.iter().find(|(_, _, other)| Arc::ptr_eq(other, rows));
            same.map_or(0.into(), |(id, _, _)| *id)
        };
        let group = |(id, _, rows): &(ParamId, usize, Arc<Vec<f32>>)| SharedInputs {
            name: self.name(*id).clone(),
            inputs_of: self.name(first(rows)).clone(),
            is_routed: seen.routed.contains(id),
        };
        seen.inputs.iter().map(group).collect()
    }
}

/// A matrix, and the first matrix that has the same inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedInputs {
    pub name: MatrixName,
    pub inputs_of: MatrixName,
    /// Whether it sees only those rows that a router gives it.
    pub is_routed: bool,
}

/// A tap that records what some layers see.
struct Eye {
    ids: BTreeSet<ParamId>,
    /// Whether to record inputs; otherwise only outputs are probed.
    inputs: bool,
    all: SeesAll,
    seen: Seen,
}

impl Tap for Eye {
    fn input(&mut self, weight: ParamId, input: Tensor<2>) {
        if self.inputs && self.ids.contains(&weight) {
            let [_, size] = input.dims();
            let rows = to_rows(input);
            // The query, key and value projections have the same inputs.
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

    fn wants_all(&mut self, weights: &[ParamId]) -> bool {
        self.seen.routed.extend(weights);
        match &self.all {
            SeesAll::None => false,
            SeesAll::Every => true,
            SeesAll::Of(ids) => weights.iter().any(|weight| ids.contains(weight)),
        }
    }
}

/// The entries in f32, row by row.
pub(super) fn to_rows(x: Tensor<2>) -> Vec<f32> {
    let x = if x.is_autodiff() { x.inner() } else { x };
    x.cast(FloatDType::F32).into_data().try_into_vec::<f32>().expect("it was cast")
}

/// The wanted matrices of a module by the ids of their weights. They must be dense.
fn dense_matrices(
    module: &impl Module,
    wanted: impl Fn(&MatrixName) -> bool,
) -> Result<BTreeMap<ParamId, LiveMatrix>, CalibrationError> {
    let found: Vec<LiveMatrix> =
        matrices(module).into_iter().filter(|matrix| wanted(&matrix.name)).collect();
    for matrix in &found {
        let name = || matrix.name.clone();
        let about = |source| CalibrationError::Form { name: name(), source };
        matrix.check_dense().map_err(about)?;
    }
    match found.is_empty() {
        true => Err(CalibrationError::NothingSelected),
        false => Ok(found.into_iter().map(|matrix| (matrix.base.id, matrix)).collect()),
    }
}
