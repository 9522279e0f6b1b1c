use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use super::record::GradientRecord;
use crate::files::FileError;
use crate::forms::{slots, to_matrix};
use crate::linalg::Matrix;
use crate::model::LanguageModel;
use crate::modules::{MatrixName, walk};
use crate::train::checkpoints::Position;
use crate::train::lines::Lines;
use crate::workers::Budget;

/// Records the gradients of the projections in every `every`-th step. In other steps it does
/// nothing, and it never changes a gradient.
#[derive(Debug)]
pub(in crate::train) struct Tracker {
    every: NonZeroUsize,
    /// Names of the tracked parameters, by their paths.
    names: BTreeMap<String, MatrixName>,
    /// Leading directions of the last recorded gradients, by name.
    bases: BTreeMap<MatrixName, Matrix>,
    lines: Lines,
}

impl Tracker {
    /// Tracks the projections of a module, or their factors, that train. Lines of steps after the
    /// position are removed: they will be written again. `None` if there is nothing to track.
    pub fn open<M: LanguageModel>(
        path: PathBuf,
        every: NonZeroUsize,
        module: &M,
        position: &Position,
    ) -> Result<Option<Self>, FileError> {
        let names = names(module);
        if names.is_empty() {
            return Ok(None);
        }
        let last = position.step as u64;
        let lines = Lines::open(path, |line| line["step"].as_u64().is_some_and(|n| n <= last))?;
        Ok(Some(Self { every, names, bases: BTreeMap::new(), lines }))
    }

    /// Records the gradients of a step, if the step is due. A gradient that is not finite gets no
    /// record: training detects it by the norm.
    pub fn record<M: LanguageModel>(
        &mut self,
        step: usize,
        module: &M,
        gradients: &GradientsParams,
    ) -> Result<(), FileError> {
        if !step.is_multiple_of(self.every.get()) {
            return Ok(());
        }
        let mut found: Vec<(&MatrixName, Tensor<2>)> = Vec::new();
        walk(module, |place, param| {
            let gradient = param.matrix().and_then(|param| gradients.get::<2>(param.id));
            if let (Some(name), Some(gradient)) = (self.names.get(&place.path), gradient) {
                found.push((name, gradient));
            }
        });
        let workers = Budget::default().workers();
        let mut text = String::new();
        // Only as many at a time as are decomposed in parallel: all gradients in f64 may be too
        // large for the host. The thread that queued the work on the device reads them.
        for part in found.chunks(workers.count()) {
            let matrices: Vec<(&MatrixName, _)> =
                part.iter().map(|(name, gradient)| (*name, to_matrix(gradient.clone()))).collect();
            let bases = &self.bases;
            let record = |index: usize| {
                let (name, matrix) = &matrices[index];
                GradientRecord::of(step, name, matrix.as_ref().ok()?, bases.get(*name)).ok()
            };
            let records = workers.map(matrices.len(), record);
            for ((name, _), record) in part.iter().zip(records) {
                let Some((record, basis)) = record else {
                    self.bases.remove(*name);
                    continue;
                };
                text += &serde_json::to_string(&record).expect("numbers and strings serialize");
                text.push('\n');
                match basis {
                    Some(basis) => self.bases.insert((*name).clone(), basis),
                    None => self.bases.remove(*name),
                };
            }
        }
        // All lines of a step at once, so that the file has all of them or none.
        self.lines.append(&text)
    }
}

/// Names of the trainable parameters of a model's projections, by their paths. A name is that of
/// the tensor, without `.weight`.
fn names(model: &impl LanguageModel) -> BTreeMap<String, MatrixName> {
    let projections: BTreeSet<MatrixName> =
        model.matrices().into_iter().map(|matrix| matrix.name).collect();
    let tensors: BTreeMap<String, String> =
        slots(model).into_iter().flatten().map(|slot| (slot.path, slot.tensor)).collect();
    let mut names = BTreeMap::new();
    walk(model, |place, param| {
        let is_tracked = param.trains()
            && param.matrix().is_some()
            && place.matrix().is_some_and(|name| projections.contains(&name));
        let name = tensors.get(&place.path).and_then(|tensor| MatrixName::of_weight(tensor));
        if let (true, Some(name)) = (is_tracked, name) {
            names.insert(place.path.clone(), name);
        }
    });
    names
}
